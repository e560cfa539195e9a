//! `/proc/PID/status`: of it, the effective user.

/// The effective user.
pub fn effective_uid(status: &[u8]) -> Option<u32> {
    status
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok())
}

/// Who logged in and started it (`/proc/PID/loginuid`); `None` where the kernel noted nobody.
pub fn login_uid(loginuid: &[u8]) -> Option<u32> {
    let uid = std::str::from_utf8(loginuid).ok()?.trim().parse().ok()?;
    (uid != u32::MAX).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let status = b"Name:\tx\nUid:\t1000\t1001\t1000\t1000\nGid:\t5\t5\t5\t5\n";
        assert_eq!(effective_uid(status), Some(1001));
        assert_eq!(effective_uid(b"Uid:\t1000\n"), None);
        assert_eq!(login_uid(b"1000\n"), Some(1000));
        assert_eq!(login_uid(b"4294967295"), None);
        assert_eq!(login_uid(b""), None);
    }
}
