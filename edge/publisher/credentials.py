"""Password and certificates from the files named by the settings or the service manager. They are
read again for every connection, so that corrected files need no restart."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from edge.config import MqttSettings, TlsSettings
from edge.contract.errors import ConfigError
from edge.contract.text import TextError, text_of

_CREDENTIAL = "mqtt_password"  # as systemd's LoadCredential= names it


def password(settings: MqttSettings, environment: Mapping[str, str] = os.environ) -> str | None:
    """First line of mqtt.password_file, or of the systemd credential; None if there is neither.
    Raises ConfigError."""
    path = settings.password_file
    if path is None:
        credential = Path(environment.get("CREDENTIALS_DIRECTORY", "")) / _CREDENTIAL
        path = (
            credential if "CREDENTIALS_DIRECTORY" in environment and credential.exists() else None
        )
    if path is None:
        return None
    try:
        return text_of(path.read_bytes()).splitlines()[0]
    except IndexError:
        raise ConfigError(
            f"mqtt.password_file: {path}: is empty; expected the password in its first line"
        ) from None
    except TextError:  # its message would show the contents
        raise ConfigError(
            f"mqtt.password_file: {path}: is not UTF-8; save it as plain text in UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"mqtt.password_file: {path}: {_reason(error)}") from error


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """TLS context with trusted certificates and the client's own, if configured. Raises
    ConfigError."""
    if tls.key_file and not tls.cert_file:
        raise ConfigError(
            "mqtt.tls: key_file without cert_file; give both, or cert_file alone if it holds the "
            "key"
        )
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except OSError as error:  # ssl's errors are OSErrors
        raise ConfigError(f"mqtt.tls.ca_file: {tls.ca_file}: {_reason(error)}") from error
    context.sslsocket_class = _Socket
    if tls.cert_file:
        try:
            context.load_cert_chain(tls.cert_file, tls.key_file, password=_no_passphrase)
        except OSError as error:
            files = f"{tls.cert_file}, {tls.key_file or 'with the key in it'}"
            raise ConfigError(
                f"mqtt.tls.cert_file and key_file: {files}: {_reason(error)}"
            ) from error
    return context


class _Socket(ssl.SSLSocket):
    """A socket that is closed if the handshake fails."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _no_passphrase() -> str:
    """Empty passphrase; without it OpenSSL would ask at the terminal and block a daemon."""
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a PEM file, or the key does not match or has a passphrase ({error.reason})"
    return str(getattr(error, "strerror", None) or error)
