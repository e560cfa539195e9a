use muster_crypto::Secret;

fn main() {
    let _same = Secret::new(vec![1u8]) == Secret::new(vec![1u8]);
}
