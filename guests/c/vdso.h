/* Finds functions of the vDSO as a libc does: by name, in its dynamic section. */
#ifndef VDSO_H
#define VDSO_H

#include <elf.h>
#include <link.h>
#include <setjmp.h>
#include <sys/auxv.h>

struct vdso {
	uint64_t base, size;
	const ElfW(Sym) *symbols;
	const char *strings;
	const uint32_t *hash;
};

__attribute__((unused)) static struct vdso find_vdso(void)
{
	struct vdso v = { .base = getauxval(AT_SYSINFO_EHDR) };
	const ElfW(Ehdr) *header = (void *)v.base;
	const ElfW(Phdr) *segment = (void *)(v.base + header->e_phoff);
	const ElfW(Dyn) *dynamic = NULL;
	for (int i = 0; i < header->e_phnum; i++) {
		if (segment[i].p_type == PT_DYNAMIC)
			dynamic = (void *)(v.base + segment[i].p_vaddr);
		if (segment[i].p_type == PT_LOAD)
			v.size = segment[i].p_memsz;
	}
	for (; dynamic && dynamic->d_tag; dynamic++) {
		void *at = (void *)(v.base + dynamic->d_un.d_ptr);
		if (dynamic->d_tag == DT_SYMTAB)
			v.symbols = at;
		if (dynamic->d_tag == DT_STRTAB)
			v.strings = at;
		if (dynamic->d_tag == DT_HASH)
			v.hash = at;
	}
	return v;
}

__attribute__((unused)) static void *vdso_function(const struct vdso *v, const char *name)
{
	for (uint32_t i = 0; i < v->hash[1]; i++)
		if (!strcmp(v->strings + v->symbols[i].st_name, name))
			return (void *)(v->base + v->symbols[i].st_value);
	return NULL;
}

/* Functions of the vDSO fault where system calls have an error. */
__attribute__((unused)) static sigjmp_buf back;

__attribute__((unused)) static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)context;
	say("%s, code %d, address %lx", signame(sig), info->si_code, (long)info->si_addr);
	siglongjmp(back, 1);
}

#endif
