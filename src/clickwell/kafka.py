"""The Kafka settings in librdkafka's words, for every client of confluent-kafka."""

from clickwell.settings import KafkaSettings


def librdkafka_config(kafka: KafkaSettings) -> dict[str, str | int]:
    """Return the connection part of a librdkafka configuration: addresses, TLS and SASL; no behaviour."""
    config: dict[str, str | int] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": "clickwell",
        "security.protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        config["sasl.mechanism"] = kafka.sasl_mechanism
        config["sasl.username"] = kafka.sasl_username
        config["sasl.password"] = kafka.sasl_password.get_secret_value()
    if kafka.security_protocol.endswith("SSL") and kafka.ssl_cafile is not None:
        config["ssl.ca.location"] = str(kafka.ssl_cafile)
    return config


def topic_id_text(topic_id: object) -> str:
    """Return a topic's id as Kafka's own tools print it: 22 characters of URL-safe base64.

    librdkafka gives plain base64, whose slash would end a part of a ledger field.
    """
    return str(topic_id).replace("+", "-").replace("/", "_")
