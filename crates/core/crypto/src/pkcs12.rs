//! PKCS #12 stores (RFC 7292) for programs that read nothing else, Java's above all.
//!
//! Written only, never read. One set of algorithms, which OpenSSL 1.1 and Java 8u301 and later
//! understand: PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC (RFC 8018), HMAC-SHA256 over the whole.

use std::num::{NonZeroU16, NonZeroU32};

use aws_lc_rs::cipher::{AES_256, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use crate::der::{OID, SEQUENCE, tlv, unsigned_integer};
use crate::{KeyError, Secret, digest as digests, random};

/// Rounds of key derivation, as Java and OpenSSL have it by default or more.
const ROUNDS: NonZeroU16 = NonZeroU16::new(10_000).unwrap();
/// The longest password, in characters; what is longer is no password but the wrong file.
const MAX_PASSWORD: usize = 1024;

const OCTET_STRING: u8 = 0x04;
const NULL: &[u8] = &[0x05, 0x00];
const SET: u8 = 0x31;
const BMP_STRING: u8 = 0x1e;
/// `[0]`, explicit.
const EXPLICIT: u8 = 0xa0;
/// `[0]`, implicit over an OCTET STRING.
const IMPLICIT: u8 = 0x80;

const DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
const ENCRYPTED_DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x06";
const PBKDF2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c";
const PBES2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";
const HMAC_WITH_SHA256: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x02\x09";
const AES_256_CBC: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x01\x2a";
const SHA_256: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01";
const SHROUDED_KEY_BAG: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x02";
const CERTIFICATE_BAG: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x03";
const X509_CERTIFICATE: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x16\x01";
const FRIENDLY_NAME: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x14";
const LOCAL_KEY_ID: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x15";
/// What Java puts beside a certificate that it shall trust; without it, Java does not see the entry.
const JAVA_TRUSTED: &[u8] = b"\x60\x86\x48\x01\x86\xf9\x66\xad\xca\x7b\x01\x01";
const ANY_EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25\x00";

/// The password of a store: printable ASCII, which every reader encodes alike.
#[derive(Debug)]
pub struct Password(Secret<String>);

impl Password {
    /// Takes a password of 1 to 1024 printable ASCII characters.
    pub fn new(text: String) -> Result<Self, KeyError> {
        let secret = Secret::new(text);
        let text = secret.expose(crate::Purpose::Compare);
        let printable = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if text.is_empty() || text.len() > MAX_PASSWORD || !printable {
            return Err(KeyError::Malformed(
                "password of a PKCS #12 store: use 1 to 1024 printable ASCII characters",
            ));
        }
        Ok(Self(secret))
    }

    fn bytes(&self) -> &[u8] {
        self.0.expose(crate::Purpose::WriteToDisk).as_bytes()
    }
}

/// A store with one private key (PKCS #8 DER) and its chain (leaf first, DER), under `alias`.
pub fn key_store<C: AsRef<[u8]>>(
    alias: &str,
    key: &[u8],
    chain: &[C],
    password: &Password,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let leaf = chain
        .first()
        .ok_or(KeyError::Malformed("chain: it has no certificate"))?;
    let local_id = digests::sha256(leaf.as_ref());
    let of_key = [friendly_name(alias), local_key_id(local_id.as_ref())];
    let certificates: Vec<Vec<u8>> = chain
        .iter()
        .enumerate()
        .map(|(n, certificate)| {
            // The identifier ties the leaf to the key; those above it stand for themselves.
            let attributes = if n == 0 { &of_key[..] } else { &[] };
            certificate_bag(certificate.as_ref(), attributes)
        })
        .collect();
    let (algorithm, shrouded) = encrypt(key, password)?;
    let shrouded = tlv(SEQUENCE, &[&algorithm, &tlv(OCTET_STRING, &[&shrouded])]);
    let key_bag = bag(SHROUDED_KEY_BAG, &shrouded, &of_key);
    let contents = [
        encrypted_contents(&sequence_of(&certificates), password)?,
        plain_contents(&tlv(SEQUENCE, &[&key_bag])),
    ];
    Ok(store(&contents, password))
}

/// A store of certificates to trust, each DER with the alias that it gets.
pub fn trust_store<C: AsRef<[u8]>>(
    roots: &[(String, C)],
    password: &Password,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let any = tlv(OID, &[ANY_EXTENDED_KEY_USAGE]);
    let bags: Vec<Vec<u8>> = roots
        .iter()
        .map(|(alias, root)| {
            let attributes = [friendly_name(alias), attribute(JAVA_TRUSTED, &any)];
            certificate_bag(root.as_ref(), &attributes)
        })
        .collect();
    let contents = [encrypted_contents(&sequence_of(&bags), password)?];
    Ok(store(&contents, password))
}

fn sequence_of(elements: &[Vec<u8>]) -> Vec<u8> {
    let parts: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
    tlv(SEQUENCE, &parts)
}

fn certificate_bag(certificate: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
    let octets = tlv(EXPLICIT, &[&tlv(OCTET_STRING, &[certificate])]);
    let value = tlv(SEQUENCE, &[&tlv(OID, &[X509_CERTIFICATE]), &octets]);
    bag(CERTIFICATE_BAG, &value, attributes)
}

fn bag(kind: &[u8], value: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
    let kind = tlv(OID, &[kind]);
    let value = tlv(EXPLICIT, &[value]);
    if attributes.is_empty() {
        return tlv(SEQUENCE, &[&kind, &value]);
    }
    // DER orders the members of a set by their encoding.
    let mut sorted: Vec<&[u8]> = attributes.iter().map(Vec::as_slice).collect();
    sorted.sort_unstable();
    tlv(SEQUENCE, &[&kind, &value, &tlv(SET, &sorted)])
}

fn attribute(kind: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[&tlv(OID, &[kind]), &tlv(SET, &[value])])
}

fn friendly_name(name: &str) -> Vec<u8> {
    attribute(FRIENDLY_NAME, &tlv(BMP_STRING, &[&utf16(name.bytes())]))
}

fn local_key_id(id: &[u8]) -> Vec<u8> {
    attribute(LOCAL_KEY_ID, &tlv(OCTET_STRING, &[id]))
}

/// ASCII as big-endian UTF-16.
fn utf16(ascii: impl Iterator<Item = u8>) -> Vec<u8> {
    ascii.flat_map(|byte| [0, byte]).collect()
}

fn plain_contents(contents: &[u8]) -> Vec<u8> {
    let octets = tlv(EXPLICIT, &[&tlv(OCTET_STRING, &[contents])]);
    tlv(SEQUENCE, &[&tlv(OID, &[DATA]), &octets])
}

fn encrypted_contents(contents: &[u8], password: &Password) -> Result<Vec<u8>, KeyError> {
    let (algorithm, encrypted) = encrypt(contents, password)?;
    let info = tlv(
        SEQUENCE,
        &[
            &tlv(OID, &[DATA]),
            &algorithm,
            &tlv(IMPLICIT, &[&encrypted]),
        ],
    );
    let data = tlv(SEQUENCE, &[&unsigned_integer(&[0]), &info]);
    Ok(tlv(
        SEQUENCE,
        &[&tlv(OID, &[ENCRYPTED_DATA]), &tlv(EXPLICIT, &[&data])],
    ))
}

/// PBES2: the algorithm with its parameters, and the ciphertext.
fn encrypt(plain: &[u8], password: &Password) -> Result<(Vec<u8>, Vec<u8>), KeyError> {
    let failed = KeyError::Malformed("input of a PKCS #12 store");
    let salt: [u8; 16] = random::bytes();
    let mut key = Zeroizing::new([0_u8; 32]);
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        NonZeroU32::from(ROUNDS),
        &salt,
        password.bytes(),
        &mut key[..],
    );
    let cipher = UnboundCipherKey::new(&AES_256, &key[..])
        .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
        .map_err(|_| failed.clone())?;
    // Encrypted in place: what is in the buffer afterwards is no secret any more.
    let mut buffer = Vec::with_capacity(plain.len() + 16);
    buffer.extend_from_slice(plain);
    let context = cipher.encrypt(&mut buffer).map_err(|_| failed.clone())?;
    let iv: &[u8] = (&context).try_into().map_err(|_| failed)?;

    let prf = tlv(SEQUENCE, &[&tlv(OID, &[HMAC_WITH_SHA256]), NULL]);
    let derivation = tlv(
        SEQUENCE,
        &[
            &tlv(OCTET_STRING, &[&salt]),
            &unsigned_integer(&ROUNDS.get().to_be_bytes()),
            &prf,
        ],
    );
    let derivation = tlv(SEQUENCE, &[&tlv(OID, &[PBKDF2]), &derivation]);
    let scheme = tlv(
        SEQUENCE,
        &[&tlv(OID, &[AES_256_CBC]), &tlv(OCTET_STRING, &[iv])],
    );
    let parameters = tlv(SEQUENCE, &[&derivation, &scheme]);
    let algorithm = tlv(SEQUENCE, &[&tlv(OID, &[PBES2]), &parameters]);
    Ok((algorithm, buffer))
}

/// The whole: version 3, the safe, and the code that authenticates it.
fn store(contents: &[Vec<u8>], password: &Password) -> Zeroizing<Vec<u8>> {
    let safe = sequence_of(contents);
    let salt: [u8; 16] = random::bytes();
    let key = Zeroizing::new(mac_key(password, &salt));
    let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key[..]), &safe);
    let digest = tlv(
        SEQUENCE,
        &[
            &tlv(SEQUENCE, &[&tlv(OID, &[SHA_256]), NULL]),
            &tlv(OCTET_STRING, &[code.as_ref()]),
        ],
    );
    let mac = tlv(
        SEQUENCE,
        &[
            &digest,
            &tlv(OCTET_STRING, &[&salt]),
            &unsigned_integer(&ROUNDS.get().to_be_bytes()),
        ],
    );
    let version = unsigned_integer(&[3]);
    Zeroizing::new(tlv(SEQUENCE, &[&version, &plain_contents(&safe), &mac]))
}

/// RFC 7292, appendix B.2, for 32 bytes with SHA-256: one block, so that only its first round counts.
fn mac_key(password: &Password, salt: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    const FOR_MAC: u8 = 3;
    // The password is UTF-16 with a zero character at its end.
    let mut text = Zeroizing::new(utf16(password.bytes().iter().copied()));
    text.extend_from_slice(&[0, 0]);
    let mut input = Zeroizing::new(vec![FOR_MAC; BLOCK]);
    for part in [salt, &text[..]] {
        let length = part.len().div_ceil(BLOCK) * BLOCK;
        input.extend(part.iter().copied().cycle().take(length));
    }
    let mut key = digest::digest(&digest::SHA256, &input);
    for _ in 1..ROUNDS.get() {
        key = digest::digest(&digest::SHA256, key.as_ref());
    }
    key.as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::der::Reader;

    #[test]
    fn passwords_that_readers_would_encode_differently_are_refused() {
        for bad in ["", "pässword", "line\nbreak", &"x".repeat(1025)] {
            assert!(Password::new(bad.to_owned()).is_err(), "{bad:?}");
        }
        let good = Password::new("change it".to_owned()).unwrap();
        assert!(!format!("{good:?}").contains("change"));
    }

    #[test]
    fn a_store_is_one_sequence_of_version_3_and_shows_no_key() {
        let password = Password::new("changeit".to_owned()).unwrap();
        let key = [0x55_u8; 64];
        let store = key_store("svid", &key, &[&[0x30, 0x01, 0x00][..]], &password).unwrap();
        let mut outer = Reader::new(&store);
        let mut pfx = Reader::new(outer.value(SEQUENCE).unwrap());
        assert!(outer.is_empty());
        assert_eq!(pfx.unsigned_integer(), Some(&[3][..]));
        assert!(!store.windows(8).any(|window| window == &key[..8]));
        assert!(key_store::<&[u8]>("svid", &key, &[], &password).is_err());
    }
}
