"""Write the configuration that makes Alertmanager, Grafana or a script post to an integration."""

import json
import shlex


def alertmanager_config(url: str, token: str) -> str:
    """Return an Alertmanager configuration, in YAML, that posts to `url` with `token`."""
    return f"""\
# This is a whole alertmanager.yml (often in /etc/prometheus or /etc/alertmanager).
# If you already have one, add this receiver to its receivers and name it in one of its routes.
# It holds a secret: let only Alertmanager read the file. Then reload Alertmanager.
route:
  receiver: contacts
  group_by: [alertname]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 4h
receivers:
  - name: contacts
    webhook_configs:
      - url: {_quoted(url)}
        send_resolved: true
        # A longer list could exceed the size limit of the console. Alertmanager says how many it left out.
        max_alerts: 1000
        http_config:
          authorization:
            type: Bearer
            credentials: {_quoted(token)}
"""


def grafana_config(url: str, token: str) -> str:
    """Return a Grafana contact point, in YAML for its provisioning, that posts to `url` with `token`."""
    # Grafana expands $name as a variable; $$ is a literal dollar sign.
    url, token = url.replace("$", "$$"), token.replace("$", "$$")
    return f"""\
# Save this as /etc/grafana/provisioning/alerting/contacts.yaml and restart Grafana.
# It holds a secret: let only Grafana read the file. Then choose "contacts" in a notification policy.
# A second contact point needs a name and a uid of its own.
apiVersion: 1
contactPoints:
  - orgId: 1
    name: contacts
    receivers:
      - uid: contacts
        type: webhook
        disableResolveMessage: false
        settings:
          url: {_quoted(url)}
          httpMethod: POST
          authorization_scheme: Bearer
          authorization_credentials: {_quoted(token)}
"""


def curl_example(url: str, token: str) -> str:
    """Return a shell command that posts an alert in the plain format to `url` with `token`."""
    example = {"title": "Disk is full", "text": "db1: 98 % of /var is used.", "severity": "critical", "key": "db1-disk"}
    return " \\\n  ".join(
        [
            f"curl {shlex.quote(url)}",
            f"-H {shlex.quote(f'Authorization: Bearer {token}')}",
            "-H 'Content-Type: application/json'",
            f"-d {shlex.quote(json.dumps(example))}",
        ]
    )


def _quoted(value: str) -> str:
    """Return `value` as a double-quoted YAML scalar, with every special character escaped."""
    plain = (f"\\U{ord(c):08x}" if c in '"\\' or not " " <= c <= "~" else c for c in value)
    return f'"{"".join(plain)}"'
