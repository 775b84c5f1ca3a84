//! Recognises the URLs of Prisma.

/// Returns whether a URL is for Prisma's own service (`prisma://`, `prisma+postgres://`), which
/// speaks HTTP.
pub(crate) fn is_own_scheme(scheme: &str) -> bool {
    scheme.to_ascii_lowercase().starts_with("prisma")
}

pub(crate) const OWN_SERVICE: &str = "is for Prisma's own service: take the URL that reaches the database directly, which begins \
     with postgres://";

/// The error if `sslcert` is set without `sslkey`.
pub(crate) const SSLCERT: &str = "sslcert is set, sslkey is not: the authority that signed the server's certificate goes into \
     sslrootcert (Prisma calls it sslcert)";
