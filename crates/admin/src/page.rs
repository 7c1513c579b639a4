//! The status page: plain HTML, one table, no script.

use crate::http::{Login, Reply, Request};
use crate::{App, access, health, snapshot};
use hornpipe_types::stats::QueueStats;
use std::fmt::Write;

/// Rows of the table; longer lists are for the API.
const ROWS_MAX: usize = 1000;

/// `/`: health for everyone, queues for who has logged in.
pub(crate) async fn index(app: &App, request: &Request) -> Reply {
    if request.login == Login::None {
        return html(200, &frame(app, "<p><a href=\"queues\">Queues</a> (needs a login)</p>"));
    }
    queues(app, request).await
}

/// `/queues`: the table; asks for a login.
pub(crate) async fn queues(app: &App, request: &Request) -> Reply {
    let user = match access::login(app, request, access::Need::Management).await {
        Ok(user) => user,
        Err(refused) => return refusal(app, refused),
    };
    let rows = async {
        let visible = access::visible(app, &user).await?;
        let mut queues = snapshot::queues(app, None).await?;
        queues.retain(|q| visible.has(&q.vhost));
        Ok::<_, Reply>(queues)
    };
    match rows.await {
        Ok(queues) => html(200, &frame(app, &table(app, &queues))),
        Err(reply) => refusal(app, reply),
    }
}

/// An error of the API as a page.
fn refusal(app: &App, reply: Reply) -> Reply {
    let reason = serde_json::from_slice::<serde_json::Value>(&reply.body)
        .ok()
        .and_then(|v| v["reason"].as_str().map(escape))
        .unwrap_or_else(|| "A login is needed.".to_owned());
    let mut page = html(reply.status, &frame(app, &format!("<p>{reason}</p>")));
    page.headers = reply.headers;
    page
}

fn html(status: u16, body: &str) -> Reply {
    let mut reply = Reply::text("text/html; charset=utf-8", body.to_owned());
    reply.status = status;
    // Names of queues are a client's choice: whatever slips through escaping must not run.
    reply.with("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'")
}

fn frame(app: &App, inner: &str) -> String {
    let node = app.broker.node();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{product}</title><style>\
         body{{font-family:sans-serif;margin:2em}}table{{border-collapse:collapse}}\
         td,th{{padding:.2em .8em;border-bottom:1px solid #ccc;text-align:right}}\
         td:nth-child(-n+2),th:nth-child(-n+2){{text-align:left}}</style></head><body>\
         <h1>{product} {version}</h1><p>Node {name}, {state}</p>{inner}</body></html>",
        product = escape(&node.product),
        version = escape(&node.product_version),
        name = escape(&node.node_name),
        state = escape(&health::sentence(app)),
    )
}

fn table(app: &App, queues: &[QueueStats]) -> String {
    let mut out = String::from(
        "<table><tr><th>vhost</th><th>queue</th><th>ready</th><th>unacked</th><th>consumers</th>\
         <th>publish/s</th><th>deliver/s</th><th>ack/s</th></tr>",
    );
    let rates = app.rates();
    for q in queues.iter().take(ROWS_MAX) {
        let span = rates.queue(q.id);
        // Writing to a String can't fail.
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1}</td><td>{:.1}</td><td>{:.1}</td></tr>",
            escape(&q.vhost),
            escape(&q.name),
            q.messages_ready,
            q.messages_unacknowledged,
            q.consumers,
            span.rate(|s| s.stats.publish),
            span.rate(|s| s.stats.deliver_get()),
            span.rate(|s| s.stats.ack),
        );
    }
    out.push_str("</table>");
    if queues.len() > ROWS_MAX {
        let _ = write!(out, "<p>… and {} more</p>", queues.len() - ROWS_MAX);
    }
    out
}

/// Text as HTML text.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
