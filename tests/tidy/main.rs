//! The rules of the tree that can be checked: what files hold, which crate may see which, and that nothing is left unused.
//!
//! A rule that fails says which file and what to do. Lists of exceptions stand in the rule's own file, each with its reason.

mod edges;
mod entry_points;
mod sources;
mod tree;
