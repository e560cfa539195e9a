//! The benchmark of the main job; `cargo xtask bench` runs it. Written on the branch `bench`.
fn main() {}
