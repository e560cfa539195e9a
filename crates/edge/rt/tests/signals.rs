//! Signals end a real process: the first drains it, the second is final.

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};
    use std::time::Duration;

    use muster_rt::lifecycle::{self, Ready, Shutdown, Supervisor};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// Tells this test program to be the process that is signalled: "drains" or "hangs".
    const ROLE: &str = "MUSTER_TEST_ROLE";

    /// Not a test of its own: what the child process does.
    #[test]
    fn the_process() {
        let Ok(role) = std::env::var(ROLE) else {
            return;
        };
        let code = lifecycle::block_on(async move {
            let shutdown = Shutdown::on_signals().unwrap();
            let mut supervisor =
                Supervisor::new(shutdown.clone(), Ready::new(), Duration::from_mins(5));
            supervisor.essential("work", async move {
                eprintln!("ready");
                shutdown.begun().await;
                eprintln!("draining");
                if role == "hangs" {
                    std::future::pending::<()>().await;
                }
                Ok::<(), std::io::Error>(())
            });
            supervisor.run().await.exit_code()
        });
        let good = format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS);
        std::process::exit(i32::from(!good));
    }

    struct Process {
        child: Child,
        lines: std::io::Lines<BufReader<ChildStderr>>,
    }

    impl Process {
        fn start(role: &str) -> Self {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::the_process", "--nocapture"])
                .env(ROLE, role)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let mut process = Self { child, lines };
            process.until("ready");
            process
        }

        fn until(&mut self, word: &str) {
            assert!(
                self.lines.any(|line| line.unwrap() == word),
                "the process never said {word:?}"
            );
        }

        fn signal(&self, signal: Signal) {
            kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        }
    }

    #[test]
    fn the_first_signal_drains() {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let mut process = Process::start("drains");
            process.signal(signal);
            process.until("draining");
            assert_eq!(process.child.wait().unwrap().code(), Some(0));
        }
    }

    #[test]
    fn the_second_signal_is_final_and_not_a_success() {
        for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
            let mut process = Process::start("hangs");
            process.signal(Signal::SIGTERM);
            process.until("draining");
            process.signal(signal);
            assert_eq!(process.child.wait().unwrap().code(), Some(code));
        }
    }
}
