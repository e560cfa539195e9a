//! The system calls that are taken away.
//!
//! A list of what is forbidden, not of what is allowed: a plugin that the node starts inherits the
//! filter, and may be written in any language. What such lists miss are the calls that came after
//! them, so every call that is newer than the list is answered `ENOSYS`, as an older kernel would.
//! The filter is a straight program of comparisons with constants, which the kernel (5.11 and
//! later) evaluates once per call number and then keeps as a bitmap: it costs nothing measurable.

use seccompiler::sock_filter;

/// Calls with which a process gets at others' memory and descriptors, at the kernel, or out of its
/// place in the file system. Whoever tries has been taken over: it is killed.
const KILL: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_quotactl,
];

/// As [`KILL`], where the processor has them.
#[cfg(target_arch = "x86_64")]
const KILL_HERE: &[libc::c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const KILL_HERE: &[libc::c_long] = &[];

/// Calls that programs try and do without: they are told `EPERM`.
const DENY: &[libc::c_long] = &[
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_personality,
    libc::SYS_syslog,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_vhangup,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
];

/// Calls that programs try and do without: they are told that the kernel has none. `io_uring`
/// goes round every filter, as its operations are not system calls.
const ABSENT: &[libc::c_long] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// The newest call that was looked at: `mseal` (Linux 6.10). From 424 on, all processors share
/// the numbers.
const NEWEST: libc::c_long = 462;

/// `AUDIT_ARCH_*` of `linux/audit.h`.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00B7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// Offsets in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_JMP | BPF_JGT | BPF_K`,
/// `BPF_RET | BPF_K` of `linux/bpf_common.h`.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;
/// `SECCOMP_RET_*` of `linux/seccomp.h`.
const RETURN_KILL: u32 = 0x8000_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_ALLOW: u32 = 0x7FFF_0000;

fn line(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The answer that makes a call fail with `errno`.
fn errno(errno: nix::errno::Errno) -> u32 {
    RETURN_ERRNO | u32::try_from(errno as i32).unwrap_or_default()
}

/// The filter, for this processor.
fn program(architecture: u32) -> Vec<sock_filter> {
    let absent = errno(nix::errno::Errno::ENOSYS);
    let mut program = vec![
        line(LOAD, 0, 0, ARCHITECTURE_AT),
        // Numbers of another calling convention (32-bit programs) mean other calls.
        line(IF_EQUAL, 1, 0, architecture),
        line(RETURN, 0, 0, RETURN_KILL),
        line(LOAD, 0, 0, NUMBER_AT),
    ];
    let answers = [
        (KILL, RETURN_KILL),
        (KILL_HERE, RETURN_KILL),
        (DENY, errno(nix::errno::Errno::EPERM)),
        (ABSENT, absent),
    ];
    for (calls, answer) in answers {
        for number in calls.iter().filter_map(|call| u32::try_from(*call).ok()) {
            program.push(line(IF_EQUAL, 0, 1, number));
            program.push(line(RETURN, 0, 0, answer));
        }
    }
    // Newer calls, and those of the x32 convention, whose numbers begin at 2^30.
    program.push(line(
        IF_GREATER,
        0,
        1,
        u32::try_from(NEWEST).unwrap_or_default(),
    ));
    program.push(line(RETURN, 0, 0, absent));
    program.push(line(RETURN, 0, 0, RETURN_ALLOW));
    program
}

/// Installs the filter for all threads; it stays, for children too.
pub(super) fn install() -> Result<(), String> {
    let Some(architecture) = ARCHITECTURE else {
        return Err(format!(
            "there is no filter for {} processors",
            std::env::consts::ARCH
        ));
    };
    seccompiler::apply_filter_all_threads(&program(architecture)).map_err(|error| {
        format!("{error}; the kernel needs CONFIG_SECCOMP_FILTER, and the container must allow it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Function not implemented", as the filter returns it.
    const ENOSYS: u32 = 0x26;

    /// What the kernel would do with the program.
    fn answer(program: &[sock_filter], architecture: u32, number: u32) -> u32 {
        let mut at = 0;
        let mut loaded = 0;
        loop {
            let line = &program[at];
            let jump = |taken: bool| 1 + usize::from(if taken { line.jt } else { line.jf });
            at += match line.code {
                LOAD => {
                    loaded = if line.k == NUMBER_AT {
                        number
                    } else {
                        architecture
                    };
                    1
                }
                IF_EQUAL => jump(loaded == line.k),
                IF_GREATER => jump(loaded > line.k),
                RETURN => return line.k,
                other => panic!("no instruction {other}"),
            };
        }
    }

    #[test]
    fn each_call_gets_its_answer() {
        let own = 0xC000_003E;
        let program = program(own);
        let check = |call: libc::c_long, expected: u32| {
            let number = u32::try_from(call).unwrap();
            assert_eq!(answer(&program, own, number), expected, "{call}");
        };
        for call in KILL.iter().chain(KILL_HERE) {
            check(*call, RETURN_KILL);
        }
        for call in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_clone3,
            libc::SYS_keyctl,
            libc::SYS_pidfd_open,
            libc::SYS_mlockall,
            libc::SYS_landlock_restrict_self,
            libc::SYS_name_to_handle_at,
        ] {
            check(call, RETURN_ALLOW);
        }
        check(libc::SYS_unshare, RETURN_ERRNO | 1);
        check(libc::SYS_io_uring_setup, RETURN_ERRNO | ENOSYS);
        check(NEWEST, RETURN_ALLOW);
        check(NEWEST + 1, RETURN_ERRNO | ENOSYS);
        // The same number in another convention.
        let read = u32::try_from(libc::SYS_read).unwrap();
        assert_eq!(answer(&program, 0x4000_0003, read), RETURN_KILL);
        assert_eq!(answer(&program, own, 1 << 30), RETURN_ERRNO | ENOSYS);
    }
}
