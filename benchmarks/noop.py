"""What the application is compared with: the same request and answer on the wire, and no work between."""

# No postponed annotations: FastAPI must find the endpoint's types in this module.

from fastapi import FastAPI, Request, Response

QUESTION = {"prompt": "How long is an answer?", "w_cost": 0.3}
ROUTE_PATH = "/v1/route"


def noop_app(answer: bytes) -> FastAPI:
    """Return an application that reads the body and answers with fixed bytes."""
    app = FastAPI()

    @app.post(ROUTE_PATH)
    async def route(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    return app
