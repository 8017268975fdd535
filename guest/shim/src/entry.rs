//! The fast path (lanes 1 to 3) and the few instructions that may enter the host kernel.
//!
//! A rewritten call site jumps to a trampoline of its own, which sets RCX to the address where the program goes
//! on and jumps here. The two bytes before that address are a real `syscall` instruction: going there is how the
//! fast path hands a call over to the trap (lane 4) or undoes itself.
//!
//! Nothing here touches the guest's stack, or any register that a system call preserves, without putting it back:
//! flags travel in AX (`lahf`, `seto`) until they are in the port; no vector instruction appears.
//!
//! What an interrupt (`handler.rs`) does depends on where it finds the thread; the labels below are its map:
//!
//! | from | to | what it does |
//! |---|---|---|
//! | `fast_entry` | `fast_foreign` | RCX, the return address, becomes `landing` |
//! | `lane1_begin` | `lane1_end` | the same |
//! | `fast_posted` | `fast_return`, and `copy_failed` to `act_trap` | if there is a reply, `RETURN` becomes `landing`; else nothing, the kernel sees the request |
//! | `fast_return` | `fast_end` | RCX becomes `landing` |
//! | `local_begin` | `local_return` | goes to `local_undo` |
//! | `local_return` | `local_end` | RCX becomes `landing` |
//! | `lane2_begin` | `lane2_after` | goes to `lane2_undo` |
//! | `lane2_after` | `lane2_return` | `RETURN` becomes `landing` |
//! | `lane2_return` | `lane2_end` | RCX becomes `landing` |
//! | `freeze_leave` | `freeze_left` | goes to `freeze_again` |
//! | `trap_leave` | `trap_jump` | goes to `trap_late` |
//! | `trap_jump` | | RCX becomes `landing` |
//! | all else | | nothing: what follows is a request, or looks at `INTERRUPT_ASKED` |

use core::arch::global_asm;

use crate::port::{self, word};

global_asm!(
    r#"
    .section .text.start,"ax"
    .globl _start
_start:
    mov %rsp, %rdi
    and $-16, %rsp
    call {boot}
    ud2

    .text
    .p2align 6
    .globl fast_entry, fast_flags, fast_posted, fast_return, fast_end, fast_foreign
fast_entry:
    mov %rax, %r11
    lahf
    seto %al
fast_flags:
    cmpl ${magic}, %gs:{MAGIC}
    jne fast_foreign
    cmp $511, %r11
    ja lane3
    jmp *%gs:{TABLE}(,%r11,8)

    /* GS is not ours: make the call by trap. */
fast_foreign:
    add $0x7f, %al
    sahf
    mov %r11, %rax
    lea -2(%rcx), %rcx
    jmp *%rcx

    /* Lane 1: the answer is in the port. */
    .globl lane1_begin, lane1_end
lane1_begin:
    .macro identity name, where
    .globl lane1_\name
    .p2align 5
lane1_\name:
    incq %gs:{LANE1}
    add $0x7f, %al
    sahf
    mov %gs:\where, %eax
    jmp *%rcx
    .endm
    identity getpid, {PID}
    identity gettid, {TID}
    identity getppid, {PPID}
    identity getuid, {UID}
    identity geteuid, {EUID}
    identity getgid, {GID}
    identity getegid, {EGID}

    /* Random bytes: a few, and no more than there are. The rest of the way is below. */
    .globl lane1_getrandom, lane1_read
    .p2align 5
lane1_getrandom:
    /* GRND_NONBLOCK or nothing. */
    cmp $1, %edx
    ja lane3
    cmp %gs:{RANDOM_LEFT}, %rsi
    ja lane3
    cmp ${RANDOM_MAX}, %rsi
    ja lane3
    test %esi, %esi
    jz lane3
    jmp save_getrandom
    .p2align 5
lane1_read:
    test %edi, %edi
    js lane3
    cmp %edi, %gs:{RANDOM_FILE}
    je 1f
    cmp %edi, %gs:{RANDOM_FILE}+4
    jne lane3
1:  cmp %gs:{RANDOM_LEFT}, %rdx
    ja lane3
    cmp ${RANDOM_MAX}, %rdx
    ja lane3
    test %edx, %edx
    jz lane3
    jmp save_read
lane1_end:

    /* Copies RCX bytes from RSI to RDI upwards. The guest's direction flag may say otherwise and must stay as it
       is: a first load shows which way it points. Loses RAX and R11. */
    .macro copy
    cmp $16, %rcx
    ja .Llong\@
    cmp $8, %ecx
    jae .Leight\@
    cmp $4, %ecx
    jae .Lfour\@
    test %ecx, %ecx
    jz .Ldone\@
.Lbyte\@:
    movzbl (%rsi), %eax
    mov %al, (%rdi)
    inc %rsi
    inc %rdi
    dec %ecx
    jnz .Lbyte\@
    jmp .Ldone\@
.Lfour\@:
    mov (%rsi), %eax
    mov -4(%rsi,%rcx), %r11d
    mov %eax, (%rdi)
    mov %r11d, -4(%rdi,%rcx)
    jmp .Ldone\@
.Leight\@:
    mov (%rsi), %rax
    mov -8(%rsi,%rcx), %r11
    mov %rax, (%rdi)
    mov %r11, -8(%rdi,%rcx)
    jmp .Ldone\@
.Llong\@:
    mov %rsi, %r11
    lodsb
    cmp %r11, %rsi
    mov %r11, %rsi
    ja .Lupwards\@
    cld
    rep movsb
    std
    jmp .Ldone\@
.Lupwards\@:
    rep movsb
.Ldone\@:
    .endm

    /* Lane 1, answers in memory: `uname`, `sched_getaffinity` of the thread itself, random bytes. Whatever is unusual
       goes to the kernel, bad addresses included. */
    .macro local_save
    mov %eax, %gs:{FLAGS}
    mov %rcx, %gs:{RETURN}
    mov %r11d, %gs:{LOCAL_NUMBER}
    mov %rdi, %gs:{LOCAL_RDI}
    mov %rsi, %gs:{LOCAL_RSI}
    .endm

    .globl lane1_uname, lane1_getaffinity
    .p2align 5
lane1_getaffinity:
    local_save
    jmp getaffinity
    .p2align 5
save_getrandom:
    local_save
    mov %rsi, %rcx
    jmp random
    .p2align 5
save_read:
    local_save
    mov %rsi, %rdi
    mov %rdx, %rcx
    jmp random
    .p2align 5
lane1_uname:
    local_save
    .globl local_begin, local_copy, local_return, local_end, local_undo
local_begin:
    mov %gs:{VERSION}, %eax
    mov %eax, %gs:{LOCAL_VERSION}
    cmpl $0, %gs:{HAS_UNAME}
    je local_undo
    movq $0, %gs:{LOCAL_RESULT}
    mov $({UNAME}), %esi
    mov ${UNAME_SIZE}, %ecx
    jmp local_answer
getaffinity:
    mov %gs:{VERSION}, %eax
    mov %eax, %gs:{LOCAL_VERSION}
    test %edi, %edi
    jz 1f
    cmp %edi, %gs:{TID}
    jne local_undo
1:  mov %gs:{AFFINITY_LEN}, %ecx
    mov %ecx, %eax
    dec %eax
    cmp ${AFFINITY_MAX}, %eax
    jae local_undo
    /* The length is an unsigned int, a multiple of eight, and holds all CPUs. */
    cmp %ecx, %esi
    jb local_undo
    test $7, %esi
    jnz local_undo
    mov %rcx, %gs:{LOCAL_RESULT}
    mov $({AFFINITY}), %esi
    mov %rdx, %rdi
    jmp local_answer
    /* RCX bytes to RDI. They are taken from the count before anything else: whoever is interrupted or faults from then on
       gets others from the kernel, and these go to nobody. */
random:
    mov %rcx, %gs:{LOCAL_RESULT}
    mov %gs:{INTERRUPT_ASKED}, %eax
    cmp %eax, %gs:{INTERRUPT_DONE}
    jne local_undo
    mov %gs:{SELF}, %rsi
    mov %rsi, %rax
    shr $32, %rax
    lea (%rdi,%rcx), %r11
    shr $32, %r11
    cmp %rax, %r11
    jae local_undo
    mov %gs:{RANDOM_LEFT}, %rax
    add $({RANDOM}+{RANDOM_SIZE}), %rsi
    sub %rax, %rsi
    sub %rcx, %rax
    mov %rax, %gs:{RANDOM_LEFT}
    jmp random_copy
local_answer:
    /* An interrupt just before `local_begin` is seen here, a later one finds us within. */
    mov %gs:{INTERRUPT_ASKED}, %eax
    cmp %eax, %gs:{INTERRUPT_DONE}
    jne local_undo
    testl $1, %gs:{LOCAL_VERSION}
    jnz local_undo
    /* Below the shim? */
    mov %gs:{SELF}, %rax
    add %rax, %rsi
    shr $32, %rax
    lea (%rdi,%rcx), %r11
    shr $32, %r11
    cmp %rax, %r11
    jae local_undo
local_copy:
    copy
    mov %gs:{VERSION}, %eax
    cmp %eax, %gs:{LOCAL_VERSION}
    jne local_undo
    jmp local_done
    /* Nothing stays behind. */
random_copy:
    cmp $8, %ecx
    jb 2f
1:  mov (%rsi), %rax
    movq $0, (%rsi)
    mov %rax, (%rdi)
    add $8, %rsi
    add $8, %rdi
    sub $8, %ecx
    cmp $8, %ecx
    jae 1b
2:  test %ecx, %ecx
    jz local_done
3:  movzbl (%rsi), %eax
    movb $0, (%rsi)
    mov %al, (%rdi)
    inc %rsi
    inc %rdi
    dec %ecx
    jnz 3b
local_done:
    incq %gs:{LANE1}
    mov %gs:{LOCAL_RDI}, %rdi
    mov %gs:{LOCAL_RSI}, %rsi
    mov %gs:{FLAGS}, %eax
    mov %gs:{RETURN}, %rcx
local_return:
    add $0x7f, %al
    sahf
    mov %gs:{LOCAL_RESULT}, %rax
    jmp *%rcx
local_end:
local_undo:
    movl $1, %gs:{FORCE_TRAP}
    mov %gs:{LOCAL_RDI}, %rdi
    mov %gs:{LOCAL_RSI}, %rsi
    mov %gs:{FLAGS}, %eax
    mov %gs:{RETURN}, %rcx
    mov %gs:{LOCAL_NUMBER}, %r11d
    jmp fast_foreign

    /* Lane 3: the call goes into the port. */
    .macro save
    mov %eax, %gs:{FLAGS}
    mov %rcx, %gs:{RETURN}
    mov %r11d, %gs:{NUMBER}
    mov %rdi, %gs:{ARGS}
    mov %rsi, %gs:{ARGS}+8
    mov %rdx, %gs:{ARGS}+16
    mov %r10, %gs:{ARGS}+24
    mov %r8, %gs:{ARGS}+32
    mov %r9, %gs:{ARGS}+40
    .endm

    /* The reverse of `save`: arguments as they came, flags in EAX, the return address in RCX. */
    .macro restore
    mov %gs:{ARGS}, %rdi
    mov %gs:{ARGS}+8, %rsi
    mov %gs:{ARGS}+16, %rdx
    mov %gs:{ARGS}+24, %r10
    mov %gs:{ARGS}+32, %r8
    mov %gs:{ARGS}+40, %r9
    mov %gs:{FLAGS}, %eax
    mov %gs:{RETURN}, %rcx
    .endm

    /* A path in the second argument. */
    .globl lane3_path1
    .p2align 5
lane3_path1:
    save
    mov ${POST_SECOND}, %r9d
    jmp stage_path
    /* A path in the first argument. */
    .globl lane3_path0
    .p2align 5
lane3_path0:
    save
    mov %rdi, %rsi
    mov ${POST}, %r9d
stage_path:
    mov %gs:{SELF}, %rdi
    xor %ecx, %ecx
    .globl stage_begin, stage_end, stage_failed
stage_begin:
1:  movzbl (%rsi,%rcx), %eax
    mov %al, {STAGE_IN}(%rdi,%rcx)
    inc %ecx
    test %al, %al
    jz staged
    cmp ${PATH_LIMIT}, %ecx
    jb 1b
    jmp staged

    /* Bytes at the second argument, as many as the third says. */
    .globl lane3_bytes1
    .p2align 5
lane3_bytes1:
    save
    lea -1(%rdx), %rcx
    cmp ${STAGE_IN_SIZE}, %rcx
    jae stage_failed
stage_bytes:
    mov %rdx, %rcx
    mov ${POST_SECOND}, %r9d
    mov %gs:{SELF}, %rdi
    add ${STAGE_IN}, %rdi
    copy
    mov %rdx, %rcx
stage_end:
staged:
    add %rcx, %gs:{STAGED}
    shl ${LENGTH_SHIFT}, %ecx
    or %r9d, %ecx
    mov %ecx, %eax
    jmp post
trapped:
    or ${TRAPPED}, %eax
    movq $0, %gs:{SITE}
    jmp 2f

    /* Pairs of words (`struct iovec`) at the second argument, as many as the third says. */
    .globl lane3_pairs1
    .p2align 5
lane3_pairs1:
    save
    lea -1(%rdx), %rcx
    cmp ${STAGE_IN_PAIRS}, %rcx
    jae stage_failed
    shl $4, %edx
    jmp stage_bytes

    /* One word at the second argument, if that is an address. */
    .globl lane3_word1
    .p2align 5
lane3_word1:
    save
    test %rsi, %rsi
    jz stage_failed
    mov $8, %edx
    jmp stage_bytes

    /* Nothing to take along. */
    .globl lane3
    .p2align 5
lane3:
    save
stage_failed:
    mov ${POST}, %eax
post:
    mov %gs:{SITE}, %rcx
    cmp %rcx, %gs:{RETURN}
    je trapped
    incq %gs:{LANE3}
2:  cmpl $0, %gs:{HAS_RDPID}
    je 1f
    rdpid %rcx
    and $0xfff, %ecx
    cmp %ecx, %gs:{GUEST_CPU}
    je 1f
    mov %ecx, %gs:{GUEST_CPU}
    /* A plain store, right behind those of the arguments: they leave for the line together. A locked one would
       come later, when the kernel, looking for it, had taken the line away. */
1:  mov %eax, %gs:{STATE}
fast_posted:
    /* A fence: the request is seen before the look at who sleeps. */
    lock addl $0, %gs:{FLAGS}
    cmpl $0, %gs:{KERNEL_SLEEPS}
    jne wake_kernel
wait_reply:
    mov %gs:{KERNEL_CPU}, %ecx
    cmp %ecx, %gs:{GUEST_CPU}
    je sleep_guest
    mov %gs:{SPIN}, %ecx
    test %ecx, %ecx
    jz sleep_guest
    /* The usual answer comes soon, but not at once; a look before that takes the line from the kernel, too. */
    pause
    pause
    mov ${EAGER}, %edx
1:  mov %gs:{STATE}, %eax
    cmp ${REPLIED}, %al
    je replied
    dec %edx
    jnz 1b
2:  pause
    mov %gs:{STATE}, %eax
    cmp ${REPLIED}, %al
    je replied
    dec %ecx
    jnz 2b
sleep_guest:
    mov $1, %eax
    xchg %eax, %gs:{GUEST_SLEEPS}
1:  mov %gs:{STATE}, %edx
    cmp ${REPLIED}, %dl
    je woken
    mov %gs:{SELF}, %rdi
    xor %esi, %esi
    xor %r10d, %r10d
    mov $202, %eax
    syscall
    .globl futex_wait_fast
futex_wait_fast:
    jmp 1b
woken:
    movl $0, %gs:{GUEST_SLEEPS}
    mov %edx, %ecx
    rdtsc
    mov %eax, %gs:{WOKEN}
    mov %edx, %gs:{WOKEN}+4
    mov %ecx, %eax
replied:
    cmp ${REPLIED}, %eax
    jne more
finish:
    restore
fast_return:
    add $0x7f, %al
    sahf
    mov %gs:{RESULT}, %rax
    jmp *%rcx
fast_end:

    .globl copy_begin, copy_end, copy_failed
copy_failed:
    jmp copy_again

    /* The reply, in EAX, has an action or outputs. */
more:
    test %ah, %ah
    jnz act
    shr ${OUTPUTS_SHIFT}, %eax
    mov %eax, %r8d
    mov %gs:{SELF}, %rdx
    lea {OUT}(%rdx), %r9
    /* Outputs: R9 is the entry, R8 counts down. */
next_output:
    mov (%r9), %rdi
    mov 8(%r9), %esi
    mov 12(%r9), %ecx
    add %rdx, %rsi
copy_begin:
    copy
copy_end:
    sub $16, %r9
    dec %r8d
    jnz next_output
    jmp finish

wake_kernel:
    rdtsc
    mov %eax, %gs:{STAMP}
    mov %edx, %gs:{STAMP}+4
    mov %gs:{SELF}, %rdi
    mov $1, %esi
    mov $1, %edx
    mov $202, %eax
    syscall
    .globl futex_wake_fast
futex_wake_fast:
    jmp wait_reply

act:
    cmp ${ACT_TRAP}, %ah
    je act_trap
    /* A memory call whose result is the call's. */
    mov %gs:{SELF}, %rcx
    mov {ORDER}(%rcx), %rax
    mov {ORDER}+8(%rcx), %rdi
    mov {ORDER}+16(%rcx), %rsi
    mov {ORDER}+24(%rcx), %rdx
    mov {ORDER}+32(%rcx), %r10
    mov {ORDER}+40(%rcx), %r8
    mov {ORDER}+48(%rcx), %r9
    syscall
    .globl order_fast
order_fast:
    mov %rax, %gs:{RESULT}
    jmp finish
act_trap:
    cmpl $0, %gs:{XSAVE_SIZE}
    jne freeze
    movl $1, %gs:{FORCE_TRAP}
    restore
    mov %gs:{NUMBER}, %r11d
    jmp fast_foreign
    /* A bad address: only the kernel knows what that means for this call. */
copy_again:
    movl $1, %gs:{COPY_FAILED}
    movl $1, %gs:{FORCE_TRAP}
    restore
    mov %gs:{NUMBER}, %r11d
    jmp fast_foreign

    /* Lane 2: the host's system call, in the guest's own thread. */
    .globl lane2, lane2_begin, lane2_after, lane2_return, lane2_end, lane2_undo
    .p2align 5
lane2:
    mov %eax, %gs:{FLAGS}
    mov %rcx, %gs:{RETURN}
    mov %r11d, %gs:{LOCAL_NUMBER}
lane2_begin:
    incq %gs:{LANE2}
    mov %gs:{INTERRUPT_ASKED}, %eax
    cmp %eax, %gs:{INTERRUPT_DONE}
    jne lane2_undo
    mov %r11, %rax
    syscall
lane2_after:
    mov %rax, %gs:{LOCAL_RESULT}
    mov %gs:{FLAGS}, %eax
    mov %gs:{RETURN}, %rcx
lane2_return:
    add $0x7f, %al
    sahf
    mov %gs:{LOCAL_RESULT}, %rax
    jmp *%rcx
lane2_end:
lane2_undo:
    movl $1, %gs:{FORCE_TRAP}
    mov %gs:{FLAGS}, %eax
    mov %gs:{RETURN}, %rcx
    mov %gs:{LOCAL_NUMBER}, %r11d
    jmp fast_foreign

    /* mmap: lane 2 if anonymous (MAP_ANONYMOUS without MAP_LOCKED, MAP_HUGETLB, MAP_GROWSDOWN, MAP_SYNC). */
    .globl lane2_mmap
    .p2align 5
lane2_mmap:
    mov %eax, %gs:{FLAGS}
    mov %r10d, %eax
    and $0xc2120, %eax
    cmp $0x20, %eax
    mov %gs:{FLAGS}, %eax
    je lane2
    jmp lane3

    /* clock_gettime: lane 2 for the thread's own CPU time; all else must show what the vDSO shows. */
    .globl lane2_clock
    .p2align 5
lane2_clock:
    cmp $3, %edi
    je lane2
    jmp lane3

    /* futex: lane 2 for what waits and wakes, by operation (the low seven bits). */
    .globl lane2_futex
    .p2align 5
lane2_futex:
    mov %eax, %gs:{FLAGS}
    mov %esi, %eax
    and $0x7f, %eax
    cmp $10, %eax
    ja 1f
    btl %eax, {futex_local}(%rip)
1:  mov %gs:{FLAGS}, %eax
    jc lane2
    jmp lane3

    /* Where an interrupted crossing comes out instead of in the program. */
    .globl landing
    syscall
landing:
    ud2

    /* Handlers' calls, each at an instruction of its own. */
    .globl restorer, sigreturn_after
restorer:
    mov $15, %eax
    syscall
sigreturn_after:
    ud2

    /* fn(word: *u32, operation, value) -> i64 */
    .globl port_futex, futex_handler
port_futex:
    xor %r10d, %r10d
    mov $202, %eax
    syscall
futex_handler:
    ret

    /* fn(order: *[u64; 7]) -> i64 */
    .globl order_call, order_after
order_call:
    mov (%rdi), %rax
    mov 16(%rdi), %rsi
    mov 24(%rdi), %rdx
    mov 32(%rdi), %r10
    mov 40(%rdi), %r8
    mov 48(%rdi), %r9
    mov 8(%rdi), %rdi
    syscall
order_after:
    ret

    /* fn(cookie) -> i64 */
    .globl notify_call, notify_after
notify_call:
    mov ${NOTIFY}, %eax
    syscall
notify_after:
    ret

    /* fn(port) -> i64: clone as ordered. The child keeps everything in registers until it has ports. */
    .globl clone_call, clone_after
clone_call:
    push %r12
    push %r13
    mov %rdi, %r12
    mov {COOKIE}(%rdi), %r13
    mov {ORDER}(%r12), %rax
    mov {ORDER}+8(%r12), %rdi
    mov {ORDER}+16(%r12), %rsi
    mov {ORDER}+24(%r12), %rdx
    mov {ORDER}+32(%r12), %r10
    mov {ORDER}+40(%r12), %r8
    mov {ORDER}+48(%r12), %r9
    syscall
clone_after:
    test %rax, %rax
    jz 1f
    pop %r13
    pop %r12
    ret
    /* A thread or an address space: by the flags, which the kernel has compared and the host has kept. */
1:  test ${CLONE_THREAD}, %edi
    jz 2f
    /* A thread: its port is where its stack pointer lies. */
    mov %rsp, %r12
    and $-{PORT_SIZE}, %r12
    jmp 3f
2:  /* An address space: tie its life to the kernel's, get ports. */
    mov $157, %eax
    mov $1, %edi
    mov $9, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    syscall
    .globl deathsig_after
deathsig_after:
    /* Has the kernel died before that, nobody answers. */
    mov %r13, %rdi
    mov ${NOTIFY}, %eax
    syscall
    .globl hello_after
hello_after:
    test %eax, %eax
    js 4f
    mov %rax, %r14
    mov %rax, %r8
    lea _start(%rip), %rdi
    add ${PORTS_OFFSET}, %rdi
    mov ${PORTS_SIZE}, %esi
    mov $3, %edx
    mov $0x11, %r10d
    xor %r9d, %r9d
    mov $9, %eax
    syscall
    .globl ports_after
ports_after:
    mov %r14, %rdi
    mov $3, %eax
    syscall
    .globl close_after
close_after:
3:  wrgsbase %r12
    mov {FS_BASE}(%r12), %rax
    wrfsbase %rax
    mov {START_FRAME}(%r12), %rsp
    jmp restorer
4:  mov $1, %edi
    .globl exit_call, exit_after
exit_call:
    mov $60, %eax
    syscall
exit_after:
    ud2

    /* fn() -> i64: sends the listener of the filter, descriptor 1, over the socket, descriptor 0. The message cannot be
       changed, and the kernel has put its addresses in (`launch.rs`). */
    .globl send_listener, send_after, listener_message, listener_iov, listener_control
send_listener:
    xor %edi, %edi
    lea listener_message(%rip), %rsi
    xor %edx, %edx
    mov $46, %eax
    syscall
send_after:
    ret

    /* First code of a new address space: orders, then the frame that the kernel has made. */
    .globl first_orders
first_orders:
    mov %rsp, %rdi
    and $-{PORT_SIZE}, %rdi
    mov %rdi, %rbx
    and $-16, %rsp
    call {ready}
    mov {START_FRAME}(%rbx), %rsp
    jmp restorer

    /* fn(new stack, port): goes on there, never to return. */
    .globl switch_stack
switch_stack:
    mov %rdi, %rsp
    mov %rsi, %rdi
    call {settle}
    ud2

    /* fn(word: *u32, old, new) -> i64: old value or -EFAULT. */
    .globl guarded_exchange, guarded_failed
guarded_exchange:
    mov %esi, %eax
    .globl guarded_begin, guarded_end
guarded_begin:
    lock cmpxchg %edx, (%rdi)
    mov %eax, %eax
    ret
    /* fn(word: *u32) -> i64: 0 or -EFAULT. */
    .globl guarded_clear
guarded_clear:
    movl $0, (%rdi)
guarded_end:
    xor %eax, %eax
    ret
guarded_failed:
    mov $-14, %rax
    ret

    .globl signal_entry
signal_entry:
    mov %rsp, %rcx
    jmp {handler}

    /* What no instruction changes, behind all code. */
    .p2align 3
    /* struct msghdr: no name, one piece, one control message. */
listener_message:
    .quad 0, 0
    .quad 0, 1
    .quad 0, 24
    .quad 0
    /* struct iovec: one byte, this one. */
listener_iov:
    .quad 0, 1
    /* struct cmsghdr: SOL_SOCKET, SCM_RIGHTS. */
listener_control:
    .quad 20
    .long 1, 1
    .long 1, 0

    /* The host's number of the kernel process, which has put it in. */
    .globl kernel_number
    .p2align 3
kernel_number:
    .quad 0
    "#,
    boot = sym crate::boot::boot,
    settle = sym crate::boot::settle,
    ready = sym crate::handler::ready,
    handler = sym crate::handler::handler,
    futex_local = sym FUTEX_LOCAL,
    magic = const port::MAGIC,
    PATH_LIMIT = const 1024,
    STAGE_IN_SIZE = const port::STAGE_IN_SIZE,
    STAGE_IN_PAIRS = const port::STAGE_IN_SIZE / 16,
    POST = const POST,
    POST_SECOND = const POST | port::request::STAGED_SECOND,
    TRAPPED = const port::request::TRAPPED,
    LENGTH_SHIFT = const port::request::LENGTH_SHIFT,
    REPLIED = const port::REPLIED,
    OUTPUTS_SHIFT = const port::reply::OUTPUTS_SHIFT,
    EAGER = const 200,
    ACT_TRAP = const port::action::TRAP,
    NOTIFY = const port::NOTIFY_CALL,
    CLONE_THREAD = const 0x1_0000,
    PORT_SIZE = const port::PORT_SIZE,
    PORTS_OFFSET = const port::PORTS_OFFSET,
    PORTS_SIZE = const port::PORT_SIZE * port::PORT_COUNT,
    MAGIC = const word::MAGIC,
    TABLE = const word::TABLE,
    LANE1 = const word::LANE1,
    LANE2 = const word::LANE2,
    LANE3 = const word::LANE3,
    PID = const word::PID,
    TID = const word::TID,
    PPID = const word::PPID,
    UID = const word::UID,
    EUID = const word::EUID,
    GID = const word::GID,
    EGID = const word::EGID,
    FLAGS = const word::FLAGS,
    RETURN = const word::RETURN,
    NUMBER = const word::NUMBER,
    ARGS = const word::ARGS,
    SELF = const word::SELF,
    SITE = const word::SITE,
    LOCAL_NUMBER = const word::LOCAL_NUMBER,
    LOCAL_VERSION = const word::LOCAL_VERSION,
    LOCAL_RESULT = const word::LOCAL_RESULT,
    LOCAL_RDI = const word::LOCAL_RDI,
    LOCAL_RSI = const word::LOCAL_RSI,
    VERSION = const word::VERSION,
    HAS_UNAME = const word::HAS_UNAME,
    UNAME = const word::UNAME,
    UNAME_SIZE = const port::UNAME_SIZE,
    AFFINITY_LEN = const word::AFFINITY_LEN,
    AFFINITY = const word::AFFINITY,
    AFFINITY_MAX = const port::AFFINITY_MAX,
    RANDOM_FILE = const word::RANDOM_FILE,
    RANDOM_LEFT = const word::RANDOM_LEFT,
    RANDOM = const word::RANDOM,
    RANDOM_SIZE = const port::RANDOM_SIZE,
    RANDOM_MAX = const port::RANDOM_MAX,
    STAGE_IN = const word::STAGE_IN,
    STAGED = const word::STAGED,
    HAS_RDPID = const word::HAS_RDPID,
    GUEST_CPU = const word::GUEST_CPU,
    KERNEL_CPU = const word::KERNEL_CPU,
    STATE = const word::STATE,
    KERNEL_SLEEPS = const word::KERNEL_SLEEPS,
    GUEST_SLEEPS = const word::GUEST_SLEEPS,
    SPIN = const word::SPIN,
    OUT = const word::OUT,
    RESULT = const word::RESULT,
    STAMP = const word::STAMP,
    WOKEN = const word::WOKEN,
    FORCE_TRAP = const word::FORCE_TRAP,
    COPY_FAILED = const word::COPY_FAILED,
    XSAVE_SIZE = const word::XSAVE_SIZE,
    ORDER = const word::ORDER,
    COOKIE = const word::COOKIE,
    FS_BASE = const word::FS_BASE,
    START_FRAME = const word::START_FRAME,
    INTERRUPT_ASKED = const word::INTERRUPT_ASKED,
    INTERRUPT_DONE = const word::INTERRUPT_DONE,
    options(att_syntax)
);

/// What the fast path posts when nothing is staged.
const POST: u32 = port::POSTED | port::kind::FAST << port::request::KIND_SHIFT;

/// Futex operations that the host serves: WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_BITSET, WAKE_BITSET.
static FUTEX_LOCAL: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 10;
