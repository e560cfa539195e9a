//! `/proc/PID/cgroup`: of it, the unit of systemd in which a process runs.

/// The kinds of units in which processes are themselves, and those that hold such units.
const UNITS: [&str; 2] = [".service", ".scope"];
const SLICE: &str = ".slice";

/// The unit, as it can be compared over restarts: in the name of a scope, parts with digits in them
/// (sessions, terminals, containers) are `*`.
///
/// The path is that of the unified hierarchy, or, where there is none, of systemd's own.
pub fn unit(cgroup: &[u8]) -> Option<String> {
    let lines = || {
        cgroup
            .split(|byte| *byte == b'\n')
            .filter_map(|line| std::str::from_utf8(line).ok())
    };
    let of = |hierarchy: &str| lines().find_map(|line| line.split_once(hierarchy));
    let (_, path) = of("0::").or_else(|| of(":name=systemd:"))?;
    let is_unit = |part: &&str| UNITS.iter().any(|kind| part.ends_with(kind));
    let unit = path
        .rsplit('/')
        .find(is_unit)
        .or_else(|| path.rsplit('/').find(|part| part.ends_with(SLICE)))?;
    match unit.strip_suffix(".scope") {
        None => Some(unit.to_owned()),
        Some(name) => {
            let part = |part: &str| {
                if part.bytes().any(|byte| byte.is_ascii_digit()) {
                    "*".to_owned()
                } else {
                    part.to_owned()
                }
            };
            let mut parts: Vec<String> = name.split('-').map(part).collect();
            parts.dedup();
            Some(format!("{}.scope", parts.join("-")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(unit(text.as_bytes()).as_deref(), expected, "{text}");
        };
        check("0::/system.slice/ssh.service\n", Some("ssh.service"));
        check(
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            Some("session-*.scope"),
        );
        check(
            "0::/user.slice/user@1000.service/app.slice/vte-spawn-1b2-99.scope",
            Some("vte-spawn-*.scope"),
        );
        check("0::/system.slice/a.service/inner", Some("a.service"));
        check("0::/machine.slice", Some("machine.slice"));
        check(
            "4:cpu:/x\n1:name=systemd:/system.slice/b.service\n",
            Some("b.service"),
        );
        check("0::/\n", None);
        check("", None);
    }
}
