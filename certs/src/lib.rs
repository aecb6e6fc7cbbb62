//! The certificate authority of a cluster: makes it, stores it, and issues hub and agent certificates.
//!
//! Promises: one identity per certificate, in a SAN URI (see [`anemone_model::Identity`]); private keys readable by their
//! owner only; files that appear whole or not at all; an existing authority is never overwritten.
//! Refuses: identities of another cluster, certificates that would outlive the authority, empty validity periods.
//! Checks nothing at run time: that is the business of `anemone-link`.

mod authority;
mod error;
mod files;
mod show;
mod validity;

pub use authority::{AUTHORITY_CERT, AUTHORITY_KEY, Authority, IssueOptions, Issued, file_stem};
pub use error::CertsError;
pub use show::{Summary, summaries};
pub use validity::Validity;
