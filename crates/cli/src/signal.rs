//! What tells a command to stop.

/// Ends with ctrl-C, and on Unix with SIGTERM and SIGHUP, too: a CI job that is cancelled, a
/// terminal that is closed.
pub async fn stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::SignalKind;
        tokio::select! {
            () = comes(SignalKind::interrupt()) => {}
            () = comes(SignalKind::terminate()) => {}
            () = hangs_up() => {}
        }
    }
    #[cfg(not(unix))]
    let _ = tokio::signal::ctrl_c().await;
}

#[cfg(unix)]
async fn comes(kind: tokio::signal::unix::SignalKind) {
    match tokio::signal::unix::signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// Whoever is started by nohup is to outlive the terminal: to listen would undo that.
#[cfg(unix)]
async fn hangs_up() {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) if ignores_hangup(&status) => std::future::pending().await,
        _ => comes(tokio::signal::unix::SignalKind::hangup()).await,
    }
}

/// The first bit of the mask is the signal 1 (proc(5), "SigIgn").
#[cfg(unix)]
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

#[cfg(all(test, unix))]
mod tests {
    use super::ignores_hangup;

    #[test]
    fn nohup_is_respected() {
        let status = |mask| format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup("Name:\tx\n"));
    }
}
