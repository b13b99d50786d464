"""Settings of Serve's ingress (HAProxy) that are the same wherever it runs."""

from __future__ import annotations

LONGEST_DEADLINE_S = 30
"""The ingress gives up on a replica that is silent for so long."""

LONGEST_ANSWER_S = 120
"""An answer that comes piece by piece may take so long in all. At each start or stop of an
application the ingress reloads; its process before lives on for this long to end such answers."""


def variables() -> dict[str, str]:
    """Say what turns Serve's HAProxy mode on, with the settings that lose no request.

    Ports, folders and the executable are not among them.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Ray runs workers at niceness 15, gateways and the ingress among them: beside one busy
        # process of the usual niceness they get a thirtieth of a core, and answer nothing.
        "RAY_worker_niceness": "0",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(LONGEST_DEADLINE_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "10",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_ANSWER_S + 5),
        # A dead process is noticed by its refused connections, at once. Checks are for hung ones:
        # three in a row without an answer in 5 s (`stack.ingress_edit`). They must not take a
        # machine that is short of processor time for that: with no server left the ingress
        # answers 500.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_FASTINTER": "1s",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_DOWNINTER": "1s",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "3",
        # A proxy that is not ready after this time is killed and begun again; on a busy machine
        # Ray's 5 s are too short for it ever to be.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # An ingress that is gone is begun again after three checks in a row without an answer. Ray's
        # 10 s between them would make that half a minute; one that only answers late gets longer.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "20",
        # A replica that is told to stop goes on for this long, so that the ingress learns of it;
        # Ray's 30 s are for load balancers that take longer, and ours takes about one.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 * 1024),
    }
