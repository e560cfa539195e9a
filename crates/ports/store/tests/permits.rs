//! A write that nobody authorized does not compile.

#[test]
fn a_write_needs_a_permit_for_its_rows() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/no_permit.rs");
    cases.compile_fail("tests/ui/other_permit.rs");
    cases.compile_fail("tests/ui/forged_permit.rs");
    cases.compile_fail("tests/ui/forged_change.rs");
}
