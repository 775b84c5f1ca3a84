//! `pgbouncer.ini` and the auth file.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::builder::{Builder, Mode};
use crate::{
    Result,
    error::OrSay,
    postgres::{Auth, user::User},
};

/// Writes both, and says where the settings are.
pub(super) fn write(builder: &Builder, port: u16, directory: &Path, user: User) -> Result<PathBuf> {
    let users = directory.join("users.txt");
    put(&users, &auth_file(&builder.users), user)?;
    let settings = directory.join("pgbouncer.ini");
    put(&settings, &ini(builder, port, &users), user)?;
    Ok(settings)
}

fn ini(builder: &Builder, port: u16, users: &Path) -> String {
    let mode = match builder.mode {
        Mode::Transaction => "transaction",
        Mode::Session => "session",
    };
    let auth = match builder.auth {
        Auth::Trust => "trust",
        Auth::Scram => "scram-sha-256",
    };
    let settings = [
        ("listen_addr", "127.0.0.1".to_owned()),
        ("listen_port", port.to_string()),
        // None: the directory would have to be ours for it to be removed.
        ("unix_socket_dir", String::new()),
        ("auth_type", auth.to_owned()),
        ("auth_file", users.display().to_string()),
        ("admin_users", "postgres".to_owned()),
        ("pool_mode", mode.to_owned()),
        ("default_pool_size", builder.pool_size.to_string()),
        ("max_client_conn", "200".to_owned()),
        // A server that could not be reached is tried again soon.
        ("server_login_retry", "1".to_owned()),
    ];
    let mut text = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\n",
        builder.server
    );
    let custom = builder.settings.iter();
    let custom = custom.map(|(name, value)| (name.as_str(), value));
    for (name, value) in settings
        .iter()
        .map(|(name, value)| (*name, value))
        .chain(custom)
    {
        text.push_str(&format!("{name} = {value}\n"));
    }
    text
}

/// `"name" "password"`, quotes doubled (PgBouncer's manual, "Authentication file
/// format").
fn auth_file(users: &[(String, String)]) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let lines = users
        .iter()
        .map(|(name, password)| format!("{} {}\n", quote(name), quote(password)));
    lines.collect()
}

/// Writes a file that only the pooler's user may read.
fn put(path: &Path, text: &str, user: User) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .or_say(|| format!("could not write {}", path.display()))?;
    user.own(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_own_settings_come_last() {
        let builder = Builder::new(5432)
            .mode(Mode::Session)
            .setting("pool_mode", "statement");
        let text = ini(&builder, 6432, Path::new("users.txt"));
        let modes: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("pool_mode"))
            .collect();
        assert_eq!(modes, ["pool_mode = session", "pool_mode = statement"]);
        assert!(text.contains("* = host=127.0.0.1 port=5432"), "{text}");
    }

    #[test]
    fn names_and_passwords_are_quoted() {
        let users = [("o\"neil".to_owned(), "a b".to_owned())];
        assert_eq!(auth_file(&users), "\"o\"\"neil\" \"a b\"\n");
    }
}
