//! This very process as the oracle: what the host's kernel built for it must come out again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use coracle_elf::{AuxInputs, Image, InitialStack, Op, ProgramPlan, StackInputs};

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
}

fn auxv() -> HashMap<u64, u64> {
    words(&fs::read("/proc/self/auxv").unwrap()).chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Field `number` of `/proc/self/stat`, counted as in proc_pid_stat(5).
fn stat(number: usize) -> u64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    text.rsplit_once(") ").unwrap().1.split(' ').nth(number - 3).unwrap().trim().parse().unwrap()
}

/// Start, end, offset, path of every mapping.
fn maps() -> Vec<(u64, u64, u64, String)> {
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next().unwrap().split_once('-').unwrap();
        let offset = fields.nth(1).unwrap();
        (hex(start), hex(end), hex(offset), fields.nth(2).unwrap_or("").to_owned())
    };
    fs::read_to_string("/proc/self/maps").unwrap().lines().map(parse).collect()
}

fn memory(start: u64, end: u64) -> Vec<u8> {
    let mut bytes = vec![0; (end - start) as usize];
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, start).unwrap();
    bytes
}

fn c_strings(start: u64, end: u64) -> Vec<Vec<u8>> {
    let bytes = memory(start, end);
    bytes.strip_suffix(b"\0").unwrap().split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

#[test]
fn the_stack_is_that_of_linux_byte_for_byte() {
    let aux = auxv();
    let top = maps().into_iter().find(|(.., name)| name == "[stack]").unwrap().1;
    let (sp, arg_start, arg_end, env_start, env_end) = (stat(28), stat(48), stat(49), stat(50), stat(51));
    let strings = c_strings(env_end, top - 8);
    let platform = aux[&15];
    let inputs = StackInputs {
        argv: &c_strings(arg_start, arg_end),
        envp: &c_strings(env_start, env_end),
        execfn: &strings[0],
        aux: AuxInputs {
            sysinfo_ehdr: aux.get(&33).copied(),
            minsigstksz: aux[&51],
            hwcap: aux[&16],
            hwcap2: aux[&26],
            phdr: aux[&3],
            phnum: aux[&5] as u16,
            base: aux[&7],
            flags: aux[&8],
            entry: aux[&9],
            uid: aux[&11] as u32,
            euid: aux[&12] as u32,
            gid: aux[&13] as u32,
            egid: aux[&14] as u32,
            secure: aux[&23] != 0,
            random: memory(aux[&25], aux[&25] + 16).try_into().unwrap(),
            rseq: aux.get(&27).map(|size| (*size, aux[&28])),
        },
        top,
        gap: arg_start - (platform + 7),
        rlimit_stack: 8 << 20,
    };
    let stack = InitialStack::build(&inputs).unwrap();
    assert_eq!(stack.sp, sp);
    assert_eq!(
        (stack.args.start, stack.args.end, stack.env.start, stack.env.end),
        (arg_start, arg_end, env_start, env_end)
    );
    let host = memory(sp, top);
    assert_eq!(stack.bytes.len(), host.len());
    assert!(
        stack.bytes == host,
        "first difference at {:?}",
        stack.bytes.iter().zip(&host).position(|(a, b)| a != b)
    );
    assert_eq!(words(&stack.saved_auxv), words(&fs::read("/proc/self/auxv").unwrap()));
    let at = (stack.auxv.start - stack.sp) as usize;
    assert_eq!(stack.bytes[at..][..stack.saved_auxv.len()], stack.saved_auxv);
}

#[test]
fn the_image_lies_where_linux_put_it() {
    let (aux, maps) = (auxv(), maps());
    let exe_path = fs::read_link("/proc/self/exe").unwrap().into_os_string().into_string().unwrap();
    let exe = fs::read(&exe_path).unwrap();
    let image = Image::parse(&exe[..4096], &exe[..]).unwrap();
    let base_of = |path: &str| maps.iter().find(|(.., name)| name == path).unwrap().0;
    let interp_path = fs::canonicalize(std::str::from_utf8(image.interp.as_ref().unwrap()).unwrap()).unwrap();
    let interp_path = interp_path.into_os_string().into_string().unwrap();
    let interp_bytes = fs::read(&interp_path).unwrap();
    let interp = Image::parse_interpreter(&interp_bytes[..256], &interp_bytes[..]).unwrap();

    let plan = ProgramPlan::new(&image, base_of(&exe_path), Some((&interp, base_of(&interp_path)))).unwrap();
    assert_eq!((plan.exe.phdr, u64::from(plan.exe.phnum), plan.exe.entry), (aux[&3], aux[&5], aux[&9]));
    assert_eq!(plan.at_base(), aux[&7]);
    assert!(!plan.brk_moves && !plan.exec_stack);
    assert_eq!((plan.exe.code.start, plan.exe.code.end), (stat(26), stat(27)));
    assert_eq!((plan.exe.data.start, plan.exe.data.end), (stat(45), stat(46)));
    assert!(plan.exe.brk <= stat(47));
    for (load, path) in [(&plan.exe, &exe_path), (plan.interp.as_ref().unwrap(), &interp_path)] {
        for op in &load.ops {
            let Op::MapFile { addr, len, offset, .. } = *op else {
                continue;
            };
            // mprotect of RELRO splits mappings; each page must still be that page of the file.
            for page in (addr..addr + len).step_by(4096) {
                let found = maps.iter().find(|(start, end, ..)| (*start..*end).contains(&page)).unwrap();
                assert_eq!((&found.3, found.2 + page - found.0), (path, offset + page - addr));
            }
        }
    }
}
