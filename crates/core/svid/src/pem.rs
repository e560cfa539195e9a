//! Certificates in PEM (RFC 7468), as `muster bundle show` and openssl write them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a PEM text, DER; what stands between the blocks is passed over.
pub fn certificates(text: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text = std::str::from_utf8(text).map_err(|_utf8| "it is not text")?;
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let (body, after) = after
            .split_once(END)
            .ok_or("a certificate has no END line")?;
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = STANDARD
            .decode(body)
            .map_err(|_base64| format!("certificate {} is not base64", found.len() + 1))?;
        found.push(der);
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_among_other_text() {
        let text = format!("x\n{BEGIN}\nAQI=\n{END}\ny\r\n{BEGIN}\r\nAw==\r\n{END}\r\n");
        assert_eq!(certificates(text.as_bytes()), Ok(vec![vec![1, 2], vec![3]]));
        assert_eq!(certificates(b""), Ok(vec![]));
        assert!(certificates(BEGIN.as_bytes()).is_err());
        assert!(certificates(format!("{BEGIN}\n!\n{END}").as_bytes()).is_err());
        assert!(certificates(&[0xff]).is_err());
    }
}
