//! `x-…` arguments, parsed once into structs.
