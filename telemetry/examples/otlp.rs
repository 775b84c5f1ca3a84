//! Spans and metrics to an OpenTelemetry collector by OTLP over HTTP, as to the one in the ADOT
//! layer of a Lambda function.

use antifreeze::{Database, DatabaseLayer};
use lambda_http::{Body, Error, Request, Response};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower::{Service, ServiceBuilder};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    // Before the first connection: what is measured is asked for once.
    // The collector of the ADOT layer listens there.
    let telemetry = Telemetry::to("http://127.0.0.1:4318")?;
    let database = Database::from_env()?;
    database.warm_up().await?;
    lambda_http::run(service(database, telemetry)).await
}

/// What is sent in front of each response: behind it the process is frozen.
#[derive(Clone)]
pub struct Telemetry {
    spans: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Telemetry {
    /// Sends to the collector at this URL.
    pub fn to(collector: &str) -> Result<Self, Error> {
        let spans = SpanExporter::builder()
            .with_http()
            .with_endpoint(format!("{collector}/v1/traces"))
            .build()?;
        let spans = SdkTracerProvider::builder()
            .with_batch_exporter(spans)
            .build();
        let metrics = MetricExporter::builder()
            .with_http()
            .with_endpoint(format!("{collector}/v1/metrics"))
            .build()?;
        let metrics = SdkMeterProvider::builder()
            .with_periodic_exporter(metrics)
            .build();
        // The log has its own filter: spans are no lines.
        let traces = tracing_opentelemetry::layer().with_tracer(spans.tracer("antifreeze"));
        let log = tracing_subscriber::fmt::layer().json();
        tracing_subscriber::registry()
            .with(traces.with_filter(EnvFilter::new("info")))
            .with(log.with_filter(EnvFilter::from_default_env()))
            .try_init()?;
        let meter = metrics.meter("antifreeze");
        metrics::set_global_recorder(metrics_exporter_otel::OpenTelemetryRecorder::new(meter))?;
        Ok(Telemetry { spans, metrics })
    }

    /// Sends what was recorded. The exporters block their thread.
    pub async fn flush(self) {
        let sent = tokio::task::spawn_blocking(move || {
            self.spans.force_flush()?;
            self.metrics.force_flush()
        });
        match sent.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("telemetry was not sent: {error}"),
            Err(error) => eprintln!("telemetry was not sent: {error}"),
        }
    }
}

/// Sends what each invocation has recorded in front of its response.
pub fn service(
    database: Database,
    telemetry: Telemetry,
) -> impl Service<
    Request,
    Response = Response<antifreeze::layer::Body<Body>>,
    Error = Error,
    Future: Send,
> + Clone
+ Send {
    let handler = move |_: Request| {
        let telemetry = telemetry.clone();
        async move {
            antifreeze::invocation()?.after(telemetry.flush());
            handler().await
        }
    };
    ServiceBuilder::new()
        .layer(DatabaseLayer::new(database))
        .service_fn(handler)
}

async fn handler() -> Result<Response<Body>, Error> {
    let connection = antifreeze::connection().await?;
    let row = connection
        .query_one("select count(*) from partners", &[])
        .await?;
    let count: i64 = row.get(0);
    Ok(Response::new(count.to_string().into()))
}
