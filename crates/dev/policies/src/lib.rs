//! Random policies and random requests over one small house, the same for the same seed.
//!
//! Start at [`House`]. The differential test is `tests/sliced.rs`; `muster-policies export` writes sets
//! and requests for Cedars in other languages, and [`measure`] times decisions.

mod dice;
mod house;
pub mod measure;
mod text;

pub use dice::Dice;
pub use house::{Asked, House};
pub use text::{many, policies};
