//! What a driver may say at the private socket.

use antifreeze::{claim, invocation};
use tokio_postgres::NoTls;

use crate::common::{lab, lab_over_relay, sleeps};
use crate::raw::{Raw, SYNC, execute, query};
use crate::{assert_clean, connect, value};

#[tokio::test]
async fn startup_is_understood_in_pieces() {
    let lab = lab().await;
    let url = lab.database.url().expect("a socket");
    lab.run(async {
        let mut raw = Raw::open(&url).await;
        for encryption in [80_877_103_u32, 80_877_104] {
            let request = [&8_u32.to_be_bytes()[..], &encryption.to_be_bytes()].concat();
            raw.send_in_pieces(&request).await;
            assert_eq!(raw.byte().await, b'N');
        }
        let body = format!("user\0{}\0_pq_.x\01\0\0", raw.user);
        let length = 8 + body.len() as u32;
        let version = 3_u32 << 16 | 2;
        let packet = [
            &length.to_be_bytes()[..],
            &version.to_be_bytes(),
            body.as_bytes(),
        ];
        raw.send_in_pieces(&packet.concat()).await;
        let negotiated = raw.next().await.expect("an answer");
        let expected = b"\0\x03\0\0\0\0\0\x01_pq_.x\0";
        assert_eq!(
            (negotiated.tag, &negotiated.body[..]),
            (b'v', &expected[..])
        );
        let (tags, status) = raw.ready().await;
        assert!(tags.starts_with("RS") && tags.ends_with("KZ"), "{tags}");
        assert_eq!(status, 'I');
        raw.send_in_pieces(&execute("select 1")).await;
        raw.send_in_pieces(SYNC).await;
        assert_eq!(raw.ready().await, ("12DCZ".to_owned(), 'I'));
        Ok(())
    })
    .await
    .expect("answered");
}

#[tokio::test]
async fn startups_are_refused_with_a_remedy() {
    let lab = lab().await;
    let url = lab.database.url().expect("a socket");
    for (parameters, code) in [
        (&[("database", "elsewhere")][..], "3D000"),
        (&[("replication", "database")], "0A000"),
        (&[("options", "-x")], "0A000"),
        (&[("TimeZone", "Nowhere/Never")], "0A000"),
    ] {
        let mut raw = Raw::start(&url, parameters).await;
        let error = raw.error().await;
        assert_eq!(
            error.field(b'S').as_deref(),
            Some("FATAL"),
            "{parameters:?}"
        );
        assert_eq!(error.field(b'C').as_deref(), Some(code), "{parameters:?}");
        assert!(error.field(b'H').is_some_and(|hint| !hint.is_empty()));
        assert_eq!(raw.next().await, None);
    }
    let mut stranger = Raw::start(&url.replace("antifreeze@", "invocation_0@"), &[]).await;
    let error = stranger.error().await;
    assert_eq!(error.field(b'C').as_deref(), Some("08003"));
    let mut junk = Raw::open(&url).await;
    junk.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(junk.error().await.field(b'S').as_deref(), Some("FATAL"));
    lab.assert_at_rest().await;
}

#[tokio::test]
async fn parameters_of_a_driver_hold_in_each_session() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let url = lab.database.url().expect("a socket");
    let zone = async |zone: &str| {
        lab.run(async {
            let mut raw = Raw::start(&url, &[("TimeZone", zone), ("application_name", "x")]).await;
            raw.ready().await;
            raw.send(&query("show timezone; show application_name"))
                .await;
            let mut shown = Vec::new();
            while let Some(message) = raw.next().await {
                match message.tag {
                    b'D' => shown.push(String::from_utf8_lossy(&message.body[6..]).into_owned()),
                    b'Z' => break,
                    _ => {}
                }
            }
            Ok(shown)
        })
        .await
        .expect("answered")
    };
    assert_eq!(zone("Asia/Tokyo").await, ["Asia/Tokyo", "x"]);
    let before = relay.counts();
    assert_eq!(zone("Asia/Tokyo").await, ["Asia/Tokyo", "x"]);
    assert_eq!(relay.counts().since(before).round_trips, 1);
    assert_eq!(zone("Asia/Kabul").await, ["Asia/Kabul", "x"]);
    let mut plain = "".to_owned();
    lab.run(async {
        let client = connect(&url).await?;
        plain = value(&client, "show timezone").await?;
        Ok(())
    })
    .await
    .expect("answered");
    assert!(!plain.starts_with("Asia"), "{plain}");
}

#[tokio::test]
async fn bare_syncs_cost_no_round_trip() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    let url = lab.database.url().expect("a socket");
    lab.run(async {
        let mut raw = Raw::start(&url, &[]).await;
        raw.ready().await;
        // What is read behind the connect has been answered.
        relay.quiet(std::time::Duration::from_millis(50)).await;
        let before = relay.counts();
        raw.send(SYNC).await;
        assert_eq!(raw.ready().await, ("Z".to_owned(), 'I'));
        raw.send(&query(&claim())).await;
        assert_eq!(raw.ready().await, ("CZ".to_owned(), 'I'));
        assert_eq!(relay.counts().since(before).round_trips, 0);
        Ok(())
    })
    .await
    .expect("answered");
}

#[tokio::test]
async fn driver_cancels_its_own_statement_alone() {
    let lab = lab().await;
    lab.run(async {
        let url = invocation()?.url()?;
        let (one, other) = (connect(&url).await?, connect(&url).await?);
        let cancel = one.cancel_token();
        let slow = one.batch_execute("select pg_sleep(600)");
        let cancelling = async {
            sleeps(&lab.server).await;
            cancel.cancel_query(NoTls).await
        };
        let (slow, cancelled) = tokio::join!(slow, cancelling);
        cancelled?;
        let code = slow
            .expect_err("cancelled")
            .code()
            .map(|code| code.code().to_owned());
        assert_eq!(code.as_deref(), Some("57014"));
        // Nothing runs now: the request hits nothing, and least of all another connection.
        cancel.cancel_query(NoTls).await?;
        assert_eq!(
            value(&other, "select pg_sleep(0.05)::text || 'x'").await?,
            "x"
        );
        assert_eq!(value(&one, "select 2").await?, "2");
        Ok(())
    })
    .await
    .expect("answered");
}

/// Each message is read whole there, since it may not end the transaction.
#[tokio::test]
async fn long_and_empty_queries_pass_in_the_transaction() {
    let lab = lab().await;
    lab.run(async {
        let mut raw = Raw::start(&invocation()?.transaction_url()?, &[]).await;
        raw.ready().await;
        for nothing in ["", "-- a ping", "/* a ping */ ;"] {
            raw.send(&query(nothing)).await;
            assert_eq!(raw.ready().await, ("IZ".to_owned(), 'I'), "{nothing}");
        }
        let values = "(1),".repeat(50_000);
        raw.send(&query(&format!("insert into t values {values}(2)")))
            .await;
        assert_eq!(raw.ready().await, ("CZ".to_owned(), 'T'));
        Ok(())
    })
    .await
    .expect("committed");
    assert_eq!(lab.rows().await, 50_001);
}

/// A Flush behind the Sync, as libpq's pipelines have it.
#[tokio::test]
async fn flush_behind_a_sync_keeps_nothing() {
    let (lab, relay) = lab_over_relay(|config| config).await;
    lab.run(async {
        let mut raw = Raw::start(&invocation()?.url()?, &[]).await;
        raw.ready().await;
        let mut all = execute("select 1");
        all.extend_from_slice(SYNC);
        all.extend_from_slice(b"H\0\0\0\x04");
        raw.send(&all).await;
        assert_eq!(raw.ready().await, ("12DCZ".to_owned(), 'I'));
        relay.quiet(std::time::Duration::from_millis(50)).await;
        Ok(())
    })
    .await
    .expect("answered");
    assert_clean(&lab);
}
