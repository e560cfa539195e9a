//! stub
use clap::Args;
#[derive(Args, Debug)]
pub(crate) struct Dev {}
pub(crate) async fn run(
    _dev: Dev,
    _o: crate::output::Output,
) -> Result<(), crate::failure::Failure> {
    Ok(())
}
