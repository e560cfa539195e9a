//! What a `Secret` refuses is refused by the compiler.

#[test]
fn secrets_are_not_copied_compared_or_serialized() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
