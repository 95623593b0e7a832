"""`GET /v1/beacon.js`: two kilobytes that a page loads to send what people do with its results."""

from pathlib import Path

from fastapi import APIRouter, Response

# A page that was opened this long ago may still run the file of then.
_CACHE_SECONDS = 3600
_SOURCE = Path(__file__).with_suffix(".js").read_bytes()

router = APIRouter(tags=["interactions"])


@router.get("/v1/beacon.js", response_class=Response, responses={200: {"content": {"text/javascript": {}}}})
async def beacon() -> Response:
    """Return the script; it holds no secret and needs no key."""
    headers = {
        "Cache-Control": f"public, max-age={_CACHE_SECONDS}",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(_SOURCE, headers=headers, media_type="text/javascript")
