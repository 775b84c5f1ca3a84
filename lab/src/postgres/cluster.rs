//! The files of a cluster, and what they say. Everything here blocks.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use tempfile::TempDir;

use super::{
    Auth, Builder, Installation, PASSWORD, SUPERUSER, administration::Access, builder::Tls,
    user::User,
};
use crate::{Error, Result, certificates::Authority, error::OrSay, leash, leash::Leash};

pub(super) struct Cluster {
    // Dropped in this order: the files go while the leash still watches over them.
    base: TempDir,
    leash: Leash,
    pub(super) installation: Installation,
    user: User,
    pub(super) port: u16,
    auth: Auth,
    pub(super) authority: Option<PathBuf>,
    pub(super) server: Mutex<Option<Child>>,
}

impl Cluster {
    pub(super) fn start(builder: Builder) -> Result<Self> {
        let user = User::find()?;
        let installation = match builder.installation {
            Some(installation) => installation,
            None => Installation::find()?,
        };
        if !user.reaches(installation.bin()) {
            return Err(Error::new(format!(
                "the user that runs PostgreSQL cannot enter {}: as root, use an installation \
                 that everybody may enter",
                installation.bin().display()
            )));
        }
        let parent = user.temporary_directory()?;
        let base = tempfile::Builder::new()
            .prefix("lab-postgres-")
            .tempdir_in(&parent)
            .or_say(|| format!("could not make a directory in {}", parent.display()))?;
        user.own(base.path())?;
        let leash = Leash::new(leash::STOP_POSTGRES, base.path())?;
        let mut cluster = Self {
            base,
            leash,
            installation,
            user,
            port: 0,
            auth: builder.auth,
            authority: None,
            server: Mutex::new(None),
        };
        cluster.initialize()?;
        cluster.authority = cluster.write_certificates(&builder.tls)?;
        cluster.write_rules(&builder.rules)?;
        cluster.write_settings(&builder.settings)?;
        cluster.start_on_free_port()?;
        Ok(cluster)
    }

    /// The directory of the unix socket, and of everything else.
    pub(super) fn base(&self) -> &Path {
        self.base.path()
    }

    pub(super) fn access(&self) -> Access {
        Access {
            socket: self.base().to_owned(),
            port: self.port,
            password: match self.auth {
                Auth::Trust => None,
                Auth::Scram => Some(PASSWORD),
            },
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.base.path().join("data")
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.base.path().join("server.log")
    }

    pub(super) fn log(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// One of the server's binaries, run as the right user and with nothing of
    /// our environment that would change what it does.
    pub(super) fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(self.installation.bin().join(binary));
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("LC_ALL", "C")
            .current_dir(self.base())
            .stdin(Stdio::null());
        self.leash.hold(&mut command);
        self.user.apply(&mut command);
        command
    }

    fn initialize(&self) -> Result<()> {
        let password = self.write("password", PASSWORD)?;
        let output = self
            .command("initdb")
            .arg("--pgdata")
            .arg(self.data())
            .args(["--username", SUPERUSER, "--auth", "trust", "--pwfile"])
            .arg(&password)
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .output()
            .or_say(|| "could not run initdb")?;
        if output.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(Error::new(format!("initdb failed: {}", complaint.trim())))
    }

    fn write_certificates(&self, tls: &Tls) -> Result<Option<PathBuf>> {
        let (authority, identity) = match tls {
            Tls::Off => return Ok(None),
            Tls::On => {
                let authority = Authority::new()?;
                let identity = authority.server(&["localhost", "127.0.0.1"])?;
                (authority.pem().to_owned(), identity)
            }
            Tls::Custom {
                authority_pem,
                identity,
            } => (authority_pem.clone(), identity.clone()),
        };
        self.write("server.crt", identity.certificate())?;
        self.write("server.key", identity.key())?;
        self.write("authority.crt", &authority).map(Some)
    }

    fn write_rules(&self, rules: &[String]) -> Result<()> {
        let method = match self.auth {
            Auth::Trust => "trust",
            Auth::Scram => "scram-sha-256",
        };
        let mut text = String::new();
        for rule in rules {
            text.push_str(rule);
            text.push('\n');
        }
        // The unix socket is the lab's own way in, and only its directory's owner gets there.
        text.push_str(&format!(
            "local all all trust\nhost all all 127.0.0.1/32 {method}\n"
        ));
        self.write("data/pg_hba.conf", &text).map(drop)
    }

    fn write_settings(&self, custom: &[(String, String)]) -> Result<()> {
        let base = self.base().display().to_string();
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", base.clone()),
            // It would take locks and slots at a moment of its own.
            ("autovacuum", "off".to_owned()),
            // Nothing here outlives the machine's power.
            ("fsync", "off".to_owned()),
            ("full_page_writes", "off".to_owned()),
            ("log_line_prefix", "%m [%p] %a ".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("timezone", "UTC".to_owned()),
            // Lets through "unexpected EOF on client connection with an open
            // transaction", which the server logs at level LOG.
            ("log_min_messages", "warning".to_owned()),
            ("log_checkpoints", "off".to_owned()),
            ("log_connections", "off".to_owned()),
            ("log_disconnections", "off".to_owned()),
        ];
        if self.authority.is_some() {
            settings.push(("ssl", "on".to_owned()));
            settings.push(("ssl_cert_file", format!("{base}/server.crt")));
            settings.push(("ssl_key_file", format!("{base}/server.key")));
            settings.push(("ssl_ca_file", format!("{base}/authority.crt")));
        }
        let mut text = String::new();
        let custom = custom.iter().map(|(name, value)| (name.as_str(), value));
        for (name, value) in settings
            .iter()
            .map(|(name, value)| (*name, value))
            .chain(custom)
        {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        let path = self.data().join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .or_say(|| format!("could not write {}", path.display()))
    }

    /// Writes a file that only the server's user may read.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.base().join(name);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .or_say(|| format!("could not write {}", path.display()))?;
        self.user.own(&path)?;
        Ok(path)
    }
}

impl Drop for Cluster {
    /// Nothing is worth saving, so the quick way.
    fn drop(&mut self) {
        let _ = self.halt(false);
    }
}
