use muster_crypto::Secret;

fn main() {
    let secret = Secret::new(vec![1u8]);
    let _copy = secret.clone();
}
