//! The matrix of the drivers: every ending that a driver has, with both lifetimes, in plain text
//! and under TLS, one at a time and eight at once, in a process that is really stopped, seen from
//! a second connection.
//!
//! After each ending, while the process is frozen: no session of the function is in a transaction
//! or busy (and none is there at all with `PerInvocation`), and what can be kept is kept; nothing
//! of a session's state is left that others could see; an `ALTER TABLE` gets its lock within
//! 100 ms; and the next invocation works, in the same process, and sees nothing of the last one.
//!
//! The same behind PgBouncer in transaction mode, where state of the session is left out and what
//! is kept is the pooler's.
//!
//! The same endings with the driver alone show that there is something to be ended.

mod alone;
mod combination;
mod vercel;

use combination::Combination;
use drivers::Driver;

macro_rules! drivers {
    ($($name:ident: $driver:ident;)*) => {
        $(
            mod $name {
                use super::{Combination, Driver, alone};

                #[tokio::test]
                async fn alone_is_stuck() {
                    alone::check(Driver::$driver).await;
                }

                #[tokio::test]
                async fn per_event_loop_plain() {
                    Combination::new(Driver::$driver, false, false, 1).await.run().await;
                }

                #[tokio::test]
                async fn per_event_loop_tls() {
                    Combination::new(Driver::$driver, false, true, 1).await.run().await;
                }

                #[tokio::test]
                async fn per_invocation_plain() {
                    Combination::new(Driver::$driver, true, false, 1).await.run().await;
                }

                #[tokio::test]
                async fn per_invocation_tls() {
                    Combination::new(Driver::$driver, true, true, 1).await.run().await;
                }

                #[tokio::test]
                async fn together_per_event_loop_plain() {
                    Combination::new(Driver::$driver, false, false, 8).await.run().await;
                }

                #[tokio::test]
                async fn together_per_event_loop_tls() {
                    Combination::new(Driver::$driver, false, true, 8).await.run().await;
                }

                #[tokio::test]
                async fn together_per_invocation_plain() {
                    Combination::new(Driver::$driver, true, false, 8).await.run().await;
                }

                #[tokio::test]
                async fn pooled() {
                    Combination::pooled(Driver::$driver, 8).await.run().await;
                }

                #[tokio::test]
                async fn together_per_invocation_tls() {
                    Combination::new(Driver::$driver, true, true, 8).await.run().await;
                }
            }
        )*
    };
}

drivers! {
    sqlx_pool: SqlxPool;
    sqlx_connection: SqlxConnection;
    sea_orm: SeaOrm;
    diesel: Diesel;
    diesel_blocking: DieselBlocking;
    diesel_r2d2: DieselR2d2;
    diesel_async: DieselAsync;
    diesel_deadpool: DieselDeadpool;
    diesel_bb8: DieselBb8;
}

macro_rules! on_vercel {
    ($($name:ident: $driver:ident;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                vercel::check(Driver::$driver).await;
            }
        )*
    };
}

on_vercel! {
    vercel_sqlx_pool: SqlxPool;
    vercel_sea_orm: SeaOrm;
    vercel_diesel_blocking: DieselBlocking;
    vercel_diesel_deadpool: DieselDeadpool;
}
