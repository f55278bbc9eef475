//! What the programs of this package share.

#![deny(unsafe_code)]

pub mod about;
