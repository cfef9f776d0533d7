//! The pages over HTTP: `/metrics`, `/healthz`, `/readyz`, and `/` that says where one is.

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use tonic::Status;
use tonic::body::Body;

use super::AdminContext;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const WELCOME: &str = "\
This is the admin listener of a Mode Envoy node.

  gRPC      modeenvoy.admin.v1 (with reflection); the command line is `mode-envoy --admin URL`
  /readyz   whether this node serves, and if not, why not
  /healthz  whether this process is alive
  /metrics  for Prometheus

The gateway, which clients call, is on another port.
";

/// Answers one request. `allowed` is whether the caller may see the metrics.
pub(super) fn answer(
    context: &AdminContext,
    method: &Method,
    path: &str,
    allowed: Result<(), Status>,
) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let problem =
            "this page is read with GET; the API is gRPC (content-type application/grpc)\n";
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, problem.to_owned());
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/" => page(StatusCode::OK, TEXT, WELCOME.to_owned()),
        "/healthz" => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => ready(&context.readiness.not_ready()),
        "/metrics" => match allowed {
            Ok(()) => page(StatusCode::OK, METRICS, (context.metrics)()),
            Err(refusal) => refused(&refusal),
        },
        _ => page(
            StatusCode::NOT_FOUND,
            TEXT,
            "there is no such page; see /\n".to_owned(),
        ),
    }
}

/// For a request beyond the limit of open ones.
pub(super) fn overloaded() -> Response<Body> {
    let problem = "this node has too many admin requests open; try again\n";
    page(StatusCode::SERVICE_UNAVAILABLE, TEXT, problem.to_owned())
}

fn ready(reasons: &[String]) -> Response<Body> {
    if reasons.is_empty() {
        return page(StatusCode::OK, TEXT, "ready\n".to_owned());
    }
    page(
        StatusCode::SERVICE_UNAVAILABLE,
        TEXT,
        reasons.join("\n") + "\n",
    )
}

fn refused(refusal: &Status) -> Response<Body> {
    let code = match refusal.code() {
        tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    page(code, TEXT, format!("{}\n", refusal.message()))
}

fn page(status: StatusCode, kind: HeaderValue, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
