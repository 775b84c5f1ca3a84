//! Provides AWS credentials for [antifreeze](https://docs.rs/antifreeze), without the AWS SDK.
//!
//! | credentials | where the password comes from |
//! | --- | --- |
//! | [`RdsToken`] | RDS, Aurora and RDS Proxy: an IAM token, signed locally |
//! | [`DsqlToken`] | Aurora DSQL: an IAM token, signed locally |
//! | [`SecretsManager`] | a secret in AWS Secrets Manager |
//!
//! ```
//! use antifreeze::{Config, Database};
//! use antifreeze_aws::RdsToken;
//!
//! let host = "shop.abc.eu-central-1.rds.amazonaws.com";
//! let config = Config::from_url(&format!("postgres://app@{host}/shop"))?.credentials(RdsToken::new());
//! let database = Database::new(config)?;
//! # Ok::<(), antifreeze::Error>(())
//! ```
//!
//! All of them implement `antifreeze::Credentials`, and are set with
//! `Config::credentials`. Their errors are those of connecting: a missing key or region is
//! `ErrorKind::Configuration`, a service that does not answer `ErrorKind::Unreachable`.
//!
//! Tokens and secrets are neither logged nor shown by `Debug`.

mod https;
mod keys;
mod secrets_manager;
mod sign;
mod token;

pub use keys::AwsKeys;
pub use secrets_manager::SecretsManager;
pub use token::{DsqlToken, RdsToken};

/// Compiles the example of the README with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
