"""A BentoML service that answers a constant, set up as deploy/serving/service.py is: what BentoML itself costs."""

import gc

import bentoml


@bentoml.service(name="constant", workers="cpu_count", traffic={"timeout": 2}, logging={"access": {"enabled": False}})
class Constant:
    def __init__(self) -> None:
        gc.collect()
        gc.freeze()

    @bentoml.api(route="/recommend")
    async def recommend(self, user_id: str, k: int) -> dict:
        return {"items": []}
