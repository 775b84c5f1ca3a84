//! A connection string that leads elsewhere.

use std::net::SocketAddr;

/// Replaces the host and the port of a URL, or of a libpq string of keywords.
pub(crate) fn replace_address(database: &str, address: SocketAddr) -> String {
    let Some((scheme, rest)) = database.split_once("://") else {
        return replace_keywords(database, address);
    };
    // The authority ends where the path or the parameters start; a user and a
    // password before the `@` stay.
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let user = match authority.rsplit_once('@') {
        Some((user, _)) => format!("{user}@"),
        None => String::new(),
    };
    format!("{scheme}://{user}{address}{rest}")
}

fn replace_keywords(database: &str, address: SocketAddr) -> String {
    let kept = database.split_whitespace().filter(|word| {
        !["host=", "hostaddr=", "port="]
            .iter()
            .any(|keyword| word.starts_with(keyword))
    });
    let (host, port) = (
        format!("host={}", address.ip()),
        format!("port={}", address.port()),
    );
    let words: Vec<&str> = kept.chain([host.as_str(), port.as_str()]).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_url_keeps_everything_else() {
        let address = "127.0.0.1:7".parse().unwrap();
        for (given, wanted) in [
            (
                "postgres://u:p%40@db:5432/shop?sslmode=require",
                "postgres://u:p%40@127.0.0.1:7/shop?sslmode=require",
            ),
            ("postgres://a,b:1/shop", "postgres://127.0.0.1:7/shop"),
            (
                "postgresql://u@[::1]?dbname=x",
                "postgresql://u@127.0.0.1:7?dbname=x",
            ),
            (
                "host=db user=u port=1 dbname=x",
                "user=u dbname=x host=127.0.0.1 port=7",
            ),
        ] {
            assert_eq!(replace_address(given, address), wanted);
        }
    }
}
