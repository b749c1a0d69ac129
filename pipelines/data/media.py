"""Pictures and sounds of items: what a cell of the catalogue names is read within limits, then decoded.

In: a file beside the shop's data, a data URI, or an address of a host that the settings allow. Out: bytes; of a picture pixels, of a sound samples. Refused, with a sentence: what is
larger, wider or longer than the limits (told before it is decoded), what is no picture or sound, a file outside the folder.
"""

import base64
import binascii
import io
import urllib.error
import urllib.parse
import urllib.request
import wave
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SECONDS = 20.0  # that a host may take


class MediaError(Exception):
    """A picture or sound cannot be used; the message says why."""


class Source:
    """Where pictures and sounds are read from.

    Args:
        folder: that names of files start at. hosts: whose addresses may be asked, such as cdn.shop.example. most: bytes of one at most.
    """

    def __init__(self, folder: Path, hosts: list[str], most: int):
        self._folder, self._hosts, self._most = folder.resolve(), {host.lower() for host in hosts}, most
        self._opener = urllib.request.build_opener(_NoRedirects)

    def read(self, named: str) -> bytes:
        """What a cell names.

        Raises:
            MediaError: it cannot be had, or is too large.
        """
        kind = named[:8].lower()
        if kind.startswith("data:"):
            return self._within(_decoded(named, self._most))
        if kind.startswith(("http://", "https://")):
            return self._within(self._fetched(named))
        try:
            path = (self._folder / named).resolve()
            if not path.is_relative_to(self._folder):
                raise MediaError("the file is outside the folder of the shop's data")
            if not path.is_file():
                raise MediaError("there is no such file")
            if path.stat().st_size > self._most:
                raise MediaError(f"it has {path.stat().st_size:,} bytes; at most {self._most:,} are read (embed.limits.bytes)")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise MediaError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def _fetched(self, address: str) -> bytes:
        host = (urllib.parse.urlsplit(address).hostname or "").lower()
        if host not in self._hosts:
            raise MediaError(f"{host or 'the address'} is none of the hosts that may be asked (embed.hosts)")
        try:
            with self._opener.open(address, timeout=SECONDS) as answer:
                return answer.read(self._most + 1)
        except (OSError, ValueError, urllib.error.URLError) as error:
            raise MediaError(f"{host} did not give it: {error}") from error

    def _within(self, found: bytes) -> bytes:
        if len(found) > self._most:
            raise MediaError(f"it has more than {self._most:,} bytes (embed.limits.bytes)")
        return found


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An allowed host may not send on to another."""

    def redirect_request(self, request, *_):
        raise urllib.error.URLError("it sends on to another address")


def picture(content: bytes, side: int, pixels: int) -> np.ndarray:
    """The picture in a square of `side`, what it does not fill white: (side, side, 3) uint8.

    pixels: at most, as its header tells them before anything is decoded.

    Raises:
        MediaError: it is none, or too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > pixels:
                raise MediaError(
                    f"it has {image.width:,} x {image.height:,} pixels; at most {pixels:,} are read (embed.limits.pixels)"
                )
            image.draft("RGB", (side, side))  # of a JPEG the size that is needed is decoded
            whole = Image.new("RGB", (side, side), "white")
            shown = image.convert("RGBA")
            shown = shown.resize(
                [max(1, round(length * side / max(shown.size))) for length in shown.size], Image.Resampling.BICUBIC
            )
            whole.paste(shown, tuple((side - length) // 2 for length in shown.size), shown)
            return np.asarray(whole)
    except UnidentifiedImageError as error:  # its text names a place in memory
        raise MediaError(f"it is no picture that can be read ({', '.join(FORMATS)})") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"it is no picture that can be read ({', '.join(FORMATS)}): {error}") from error


def sound(content: bytes, rate: int, seconds: float) -> np.ndarray:
    """The samples of a WAV file (PCM), its channels together: (samples,) float32 between -1 and 1 at `rate` a second.

    seconds: at most, as its header tells them before anything is decoded.

    Raises:
        MediaError: it is none, or too long.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            frames, own, width, channels = file.getnframes(), file.getframerate(), file.getsampwidth(), file.getnchannels()
            if own <= 0 or frames / own > seconds:
                raise MediaError(f"it lasts {frames / max(own, 1):,.0f} s; at most {seconds:g} are read (embed.limits.seconds)")
            raw = file.readframes(frames)
    except (wave.Error, EOFError, OSError, ValueError) as error:
        raise MediaError(f"it is no sound that can be read (WAV, PCM): {error}") from error
    samples = _samples(raw[: len(raw) - len(raw) % (width * channels)], width).reshape(-1, channels).mean(1)
    if not len(samples):
        raise MediaError("it holds no sound")
    at = np.arange(0, len(samples), own / rate)
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


def _samples(raw: bytes, width: int) -> np.ndarray:
    if width == 1:
        return np.frombuffer(raw, np.uint8).astype(np.float32) / 128 - 1
    if width == 3:
        parts = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = (parts[:, 0] << 8) | (parts[:, 1] << 16) | (parts[:, 2] << 24)
        return (whole / 2**31).astype(np.float32)
    return (np.frombuffer(raw, f"<i{width}") / 2.0 ** (8 * width - 1)).astype(np.float32)


def _decoded(uri: str, most: int) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma:
        raise MediaError("the data URI has no comma")
    if len(body) > most * 2:
        raise MediaError(f"it has more than {most:,} bytes (embed.limits.bytes)")
    try:
        return base64.b64decode(body, validate=True) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"the data URI is broken: {error}") from error
