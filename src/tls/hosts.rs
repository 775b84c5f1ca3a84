//! Whose host it is, as far as its name and its provider's documentation tell what
//! authority its certificate is of.

use crate::config::Rds;

/// RDS's authorities, each region's behind a line with its name; see `roots/README.md`.
const RDS: &str = include_str!("roots/rds.pem");

/// Supabase's authorities; see `roots/README.md`.
const SUPABASE: &str = include_str!("roots/supabase.pem");

/// Who signs a host's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Authority {
    /// One that browsers trust.
    Public,
    /// Amazon's own for databases, in this region (PEM).
    Rds(&'static str),
    /// Amazon's own for databases, in a region that we have no certificate for.
    RdsElsewhere,
    /// Supabase's own (PEM).
    Supabase(&'static str),
    /// The name does not tell.
    Unknown,
}

impl Authority {
    /// Reads `host` from its end, since only that is the provider's.
    pub(super) fn of(host: &str) -> Self {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if let Some(rds) = Rds::of(&host) {
            return match rds {
                Rds { china: true, .. } => Authority::RdsElsewhere,
                // Aurora, "Rotating your SSL/TLS certificate": RDS Proxy has certificates
                // of AWS Certificate Manager.
                // https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/UsingWithRDS.SSL-certificate-rotation.html
                Rds { proxy: true, .. } => Authority::Public,
                // RDS, "Using SSL/TLS to encrypt a connection": authorities for each region.
                // https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.SSL.html
                _ => shipped(rds.region).map_or(Authority::RdsElsewhere, Authority::Rds),
            };
        }
        let labels: Vec<&str> = host.rsplit('.').collect();
        match labels.as_slice() {
            // Neon, "Connect to Neon securely": Let's Encrypt.
            // https://neon.com/docs/connect/connect-securely
            ["tech", "neon", _, ..] => Authority::Public,
            // Aurora DSQL, "Configuring SSL/TLS certificates": Amazon Root CA 1.
            // https://docs.aws.amazon.com/aurora-dsql/latest/userguide/configure-root-certificates.html
            ["aws", "on", _, "dsql", _, ..] => Authority::Public,
            // Supabase, "Postgres SSL enforcement": an authority of its own.
            // https://supabase.com/docs/guides/platform/ssl-enforcement
            ["co", "supabase", _, ..] | ["com", "supabase", "pooler", _, ..] => {
                Authority::Supabase(SUPABASE)
            }
            _ => Authority::Unknown,
        }
    }
}

fn shipped(region: &str) -> Option<&'static str> {
    let mut regions = RDS.split("# ").filter_map(|part| part.split_once('\n'));
    regions.find_map(|(name, pem)| (name == region).then_some(pem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_suffix_determines_the_roots() {
        for (host, expected) in [
            ("ep-a-1.eu-central-1.aws.neon.tech", Authority::Public),
            ("ep-a-1-pooler.us-east-2.aws.NEON.tech.", Authority::Public),
            ("neon.tech", Authority::Unknown),
            ("neon.tech.example.com", Authority::Unknown),
            ("notneon.tech", Authority::Unknown),
            ("abc.dsql.us-east-1.on.aws", Authority::Public),
            ("abc.lambda-url.us-east-1.on.aws", Authority::Unknown),
            ("p.proxy-abc.us-east-1.rds.amazonaws.com", Authority::Public),
            (
                "e.endpoint.proxy-abc.us-east-1.rds.amazonaws.com",
                Authority::Public,
            ),
            ("d.abc.xx-west-1.rds.amazonaws.com", Authority::RdsElsewhere),
            (
                "d.abc.rds.cn-north-1.amazonaws.com.cn",
                Authority::RdsElsewhere,
            ),
            ("rds.amazonaws.com", Authority::Unknown),
            ("rds.amazonaws.com.example.com", Authority::Unknown),
            ("db.abc.supabase.co", Authority::Supabase(SUPABASE)),
            (
                "aws-0-eu-west-1.pooler.SUPABASE.com.",
                Authority::Supabase(SUPABASE),
            ),
            ("supabase.co", Authority::Unknown),
            ("pooler.supabase.com", Authority::Unknown),
            ("abc.supabase.com", Authority::Unknown),
            ("abc.notsupabase.co", Authority::Unknown),
            ("abc.supabase.co.example.com", Authority::Unknown),
            ("pooler.supabase.com.example.com", Authority::Unknown),
            ("localhost", Authority::Unknown),
            ("db", Authority::Unknown),
            ("127.0.0.1", Authority::Unknown),
            ("", Authority::Unknown),
        ] {
            assert_eq!(Authority::of(host), expected, "{host}");
        }
    }

    #[test]
    fn region_has_only_its_own_roots() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        use x509_cert::der::Decode;

        let mut regions = 0;
        for line in RDS.lines().filter_map(|line| line.strip_prefix("# ")) {
            let host = format!("d.abc.{line}.rds.amazonaws.com");
            let Authority::Rds(pem) = Authority::of(&host) else {
                panic!("{line} has none");
            };
            let mut certificates = 0;
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.expect("PEM");
                let parsed = x509_cert::Certificate::from_der(&certificate).expect("X.509");
                let subject = parsed.tbs_certificate.subject.to_string();
                assert!(subject.contains(&format!("Amazon RDS {line} Root CA ")));
                rustls::RootCertStore::empty()
                    .add(certificate)
                    .expect("an authority");
                certificates += 1;
            }
            assert_eq!(certificates, 3, "{line}");
            regions += 1;
        }
        assert_eq!(regions, 27);
    }

    /// An anchor's dates are not looked at when it is used: nobody else would notice.
    #[test]
    fn supabase_roots_are_published_and_valid() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        use x509_cert::der::Decode;

        let mut serials = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(SUPABASE.as_bytes()) {
            let certificate = certificate.expect("PEM");
            let parsed = x509_cert::Certificate::from_der(&certificate).expect("X.509");
            let body = parsed.tbs_certificate;
            let subject = body.subject.to_string();
            assert!(subject.contains("CN=Supabase Root 2021 CA"), "{subject}");
            assert_eq!(body.subject, body.issuer);
            let until = body.validity.not_after.to_system_time();
            assert!(until > std::time::SystemTime::now(), "renew {subject}");
            serials.push(body.serial_number.to_string().replace(':', ""));
            rustls::RootCertStore::empty()
                .add(certificate)
                .expect("an authority");
        }
        let published = [
            "6CBC4CA1DEB63F692D0A2024C67289C2D13D54F6",
            "797FA0A5F9AC456F5AB05911BE3C978C7C5B7E07",
        ];
        assert_eq!(serials, published);
    }
}
