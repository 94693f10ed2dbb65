"""Addresses are shown without what may be secret, and only some may be opened."""

from __future__ import annotations

import pytest

from edgedet.contract.errors import SourceError
from edgedet.runtime.sources.location import check_url, public_name

SECRET = [
    "rtsp://admin:SECRET@10.0.0.7:554/live",
    "rtsp://SECRET@10.0.0.7/live",
    "http://admin:SECRET@[fe80::1]:80/live",
    "http://host/cgi?usr=admin&pwd=SECRET",
    "http://host/live?token=SECRET",
    "http://host/live?SECRET",
    "http://host/live?q=a@SECRET",
    "http://host/live?url=http://admin:SECRET@other/",
    "http://host/video#SECRET",
    "http://host/video#token=SECRET",
    "http://admin:pa/SECRET@host/live",
    "http://admin:12/SECRET@host/live",
    "rtsp://admin:pa#SECRET@host/live",
    "rtsp://admin:pa?SECRET@host/live",
    "rtsp://admin:SECRET/pa@host/live",
    "rtsp://admin:[SECRET@host/live",
    "rtsp://admin:SECRET]@host/live",
    "rtsp://admin:SEC@RET@host/live",
    "rtsp://host/user=admin&password=SECRET&channel=1",
    "rtsp://host/user=admin_password=SECRET_channel=1_stream=0.sdp",
    "rtsp://host/user%3Dadmin%26password%3DSECRET",
    "http://host/live;token=SECRET",
    "http://host/admin:SECRET/live",
    "http://host/token/SECRET/live",
    "rtmp://host/live/SECRET-1234-5678-90ab",
    "admin:SECRET@host/live",
    "//admin:SECRET@host/live",
    "http:/admin:SECRET@host/live",
]


@pytest.mark.parametrize("url", SECRET)
def test_nothing_secret_is_shown(url: str) -> None:
    assert "SEC" not in public_name(url)
    assert "RET" not in public_name(url)
    if "://" in url:
        try:
            check_url(url)
        except SourceError as e:
            assert "SEC" not in f"{e} {e.hint}"  # noqa: PT017


def test_what_is_not_secret_is_shown() -> None:
    assert public_name("rtsp://a:b@10.0.0.7:554/live?x=1") == "rtsp://10.0.0.7:554/live?x=1"
    assert public_name("http://host/Streaming/Channels/101") == "http://host/Streaming/Channels/101"
    assert public_name("rtsp://h/user=a&password=1&channel=2") == "rtsp://h/user=***&password=***&channel=2"
    assert public_name("/data/clips/a@b.mp4") == "/data/clips/a@b.mp4"
    assert "\x1b" not in public_name("http://host/%1b[2J")


def test_a_password_that_breaks_its_address_is_refused() -> None:
    with pytest.raises(SourceError, match=r"rtsp://\*\*\* is not a valid address.*%2F"):
        check_url("rtsp://admin:pa/ss@host/live")
    check_url("http://host:8080/live@1")  # may be opened, though it is not shown
