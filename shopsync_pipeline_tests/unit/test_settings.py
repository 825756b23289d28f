"""Bad input is refused with what it was and what to do."""

from pathlib import Path

import pytest

from shopsync_pipeline.db.engine import dagster_url, libpq_url, sqlalchemy_url
from shopsync_pipeline.errors import ConfigurationError
from shopsync_pipeline.settings import Settings, checked_organization, checked_shop

HOSTILE_SHOPS = [
    "",
    "evil.com",
    "a.myshopify.com.evil.com",
    "a.myshopify.com/admin",
    "a.myshopify.com@evil.com",
    "https://a.myshopify.com",
    "-a.myshopify.com",
    "a..myshopify.com",
    "a.b.myshopify.com",
    "a.myshopify.com:443",
    "a.myshopify.com\n.evil.com",
    "а.myshopify.com",  # a Cyrillic letter
    "ａ.myshopify.com",  # a full-width one
    "a。myshopify。com",  # IDNA takes these for dots
    "a.myshopify.com.",
    "a%2emyshopify.com",
    "a.myshopify.com%00.evil.com",
    "a.myshopify.com\\@evil.com",
    "a.myshopify.com#",
    "a.myshopify.com?x",
    "evil.com#.myshopify.com",
    "[::1].myshopify.com",
    "a.myshopify.com\r\nHost: evil.com",
    "user:a.myshopify.com",
]


@pytest.mark.parametrize("text", HOSTILE_SHOPS)
def test_no_other_host_passes_for_a_shop(text: str) -> None:
    with pytest.raises(ConfigurationError):
        checked_shop(text)


def test_a_shop_is_known_by_its_lower_case_domain() -> None:
    assert checked_shop(" My-Store.MyShopify.com ") == "my-store.myshopify.com"


@pytest.mark.parametrize("text", ["", "a b", "a/b", "ü", "x" * 65])
def test_an_organization_id_must_be_fit_for_a_partition_key(text: str) -> None:
    with pytest.raises(ConfigurationError):
        checked_organization(text)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://evil.com/{shop}",
        "https://evil.com/{shop}",
        "http://127.0.0.1.evil.com/{shop}",
        "http://user@127.0.0.1/{shop}",
        "http://127.0.0.1:80",
        "http://{shop}",
    ],
)
def test_a_token_is_sent_nowhere_but_to_shopify_or_this_machine(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="SHOPIFY_ENDPOINT"):
        Settings.from_env({"SHOPIFY_ENDPOINT": endpoint})


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/T0/secret",
        "ftp://127.0.0.1/secret",
        "https:///secret",
        "https://user:pw@hooks.example.com/secret",
        "https://hooks.example.com:port/secret",
        "https://hooks..example.com/secret",
        f"https://{'a' * 64}.example.com/secret",
        "secret",
    ],
)
def test_alerts_go_by_https_or_to_this_machine_and_the_address_is_not_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ALERT_WEBHOOK_URL") as refused:
        Settings.from_env({"ALERT_WEBHOOK_URL": url})
    assert "secret" not in str(refused.value)
    given = Settings.from_env({"ALERT_WEBHOOK_URL": "https://hooks.example.com/T0/secret"})
    assert given.alert_webhook_url == "https://hooks.example.com/T0/secret"
    assert "secret" not in repr(given)


@pytest.mark.parametrize("variable", ["APP_URL", "DAGSTER_WEBSERVER_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "dagster.example.com",
        "ftp://a.example",
        "https://",
        "https://a?b",
        "https://[",
        "http://a:b",
    ],
)
def test_an_address_that_people_follow_must_be_one(variable: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{variable} must be .* such as https://"):
        Settings.from_env({variable: url})
    with pytest.raises(ConfigurationError, match=f"{variable} must not hold a login") as refused:
        Settings.from_env({variable: "https://ada:hunter2@dagster.example.com"})
    assert "hunter2" not in str(refused.value)


def test_links_to_the_ui_go_to_its_public_address_or_to_this_machine() -> None:
    assert Settings.from_env({"DAGSTER_WEBSERVER_PORT": "3901"}).ui_url == "http://127.0.0.1:3901"
    given = {"DAGSTER_WEBSERVER_URL": "https://dagster.example.com/shop/"}
    assert Settings.from_env(given).ui_url == "https://dagster.example.com/shop"


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "²"])
def test_a_number_that_is_none_names_its_variable(value: str) -> None:
    with pytest.raises(ConfigurationError, match="ORGS_PER_RUN"):
        Settings.from_env({"ORGS_PER_RUN": value})


def test_what_is_missing_in_a_deployment_is_named() -> None:
    settings = Settings.from_env({})
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
        settings.required_database_url()
    with pytest.raises(ConfigurationError, match="SHOPSYNC_ENCRYPTION_KEY is not set"):
        settings.required_encryption_keys()


def test_settings_show_no_secret() -> None:
    given = {"DATABASE_URL": "postgresql://u:hunter2@h/d", "SHOPSYNC_ENCRYPTION_KEY": "hunter2"}
    assert "hunter2" not in repr(Settings.from_env(given))


def test_the_process_wins_over_the_file_and_that_over_made_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ORGS_PER_RUN", "DAGSTER_WEBSERVER_PORT", "DATABASE_URL", "SHOPSYNC_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/secrets.env").write_text("ORGS_PER_RUN=1\nDAGSTER_WEBSERVER_PORT=1\n")
    (tmp_path / ".env").write_text("SHOPSYNC_HOME=home\nORGS_PER_RUN=2\n")
    monkeypatch.setenv("ORGS_PER_RUN", "3")
    settings = Settings.from_env()
    assert (settings.orgs_per_run, settings.webserver_port) == (3, 1)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_one_database_url_serves_every_driver(scheme: str) -> None:
    url = f"{scheme}://u:p%40@h:6000/d?sslmode=require&schema=public&pgbouncer=true"
    rest = "://u:p%40@h:6000/d?sslmode=require"
    assert libpq_url(url) == f"postgresql{rest}"
    assert sqlalchemy_url(url) == f"postgresql+psycopg{rest}"
    assert dagster_url(url) == f"postgresql+psycopg2{rest}&options=-c%20timezone%3DUTC"
    assert dagster_url(dagster_url(url)) == dagster_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h",
        "postgresql://u@h:/d",
        "postgresql://u:p@[::1]:5432/d",
        "postgresql://u:p%40%2F@one:1,two:2,three/d?target_session_attrs=read-write",
    ],
)
def test_every_form_of_url_that_libpq_knows_is_taken(url: str) -> None:
    assert libpq_url(url) == url


@pytest.mark.parametrize("password", ["hun@ter2", "hun/ter2", "hun:@ter2", "hun#ter2", "hun?@er2"])
def test_a_password_that_is_not_encoded_is_refused_and_no_part_of_it_told(password: str) -> None:
    """libpq takes what is behind it for a host or a port, and says so in its error."""
    with pytest.raises(ConfigurationError, match="percent-encoded") as refused:
        libpq_url(f"postgresql://u:{password}@h/d")
    assert "hun" not in str(refused.value)
    assert "er2" not in str(refused.value)


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        libpq_url("mysql://h/d")
