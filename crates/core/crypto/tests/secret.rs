//! What a `Secret` refuses is refused by the compiler.

#[test]
fn secrets_are_neither_copied_nor_compared() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
