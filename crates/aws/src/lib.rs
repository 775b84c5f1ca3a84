//! AWS credentials for [antifreeze](https://docs.rs/antifreeze).
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
//! let mut config = Config::from_url(&format!("postgres://app@{host}/shop"))?;
//! config.set_credentials(RdsToken::new());
//! let database = Database::new(config)?;
//! # Ok::<(), antifreeze::Error>(())
//! ```
//!
//! Tokens and secrets are never logged, and shown by no `Debug`.

mod https;
mod keys;
mod secrets_manager;
mod sign;
mod token;

pub use keys::AwsKeys;
pub use secrets_manager::SecretsManager;
pub use token::{DsqlToken, RdsToken};

/// The example of this page is compiled with the crate's own.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
