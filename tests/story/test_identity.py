"""People at a whole gateway, with an identity provider beside it."""

from __future__ import annotations

import time
from typing import Any

from tests.story.conftest import Open
from tests.upstreams.keyset import AUDIENCE, ISSUER, KeySet, pair

ADMIN = {"authorization": "Bearer " + "a" * 40}


async def test_a_superadmin_of_the_provider_tells_of_usage(open_house: Open) -> None:
    async with KeySet([pair("RS256", "k1")]) as provider:
        auth = {"jwks_url": provider.url, "audience": AUDIENCE, "issuer": ISSUER, "roles_claim": "realm.roles"}
        house = await open_house(**{f"auth.{name}": value for name, value in auth.items()})
        await house.http.post("/v1/admin/services", json={"name": "indexer"}, headers=ADMIN)
        made = await house.http.post("/v1/admin/users", json={"email": "ann@example.com"}, headers=ADMIN)
        me = house.me.organization
        body = {
            "user_id": made.json()["user"]["uuid"],
            "organization_id": me.uuid,
            "model_name": "up/any-model",
            "input_tokens": 10,
            "output_tokens": 5,
            "service_name": "indexer",
        }

        def headers(**claims: Any) -> dict[str, str]:
            said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "1", "exp": time.time() + 60, "email": "ann@example.com"}
            return {"authorization": f"Bearer {provider.token({**said, **claims})}"}

        path = "/api/billing/external-usage"
        told = await house.http.post(path, json=body, headers=headers(realm={"roles": ["superadmin"]}))
        assert (told.status_code, told.json()["billedCost"]) == (201, 0.00002)
        refused = await house.http.post(path, json=body, headers=headers(realm={"roles": ["admin"]}))
        assert refused.status_code == 403
        others = await house.http.post(path, json=body, headers=headers(aud="x", realm={"roles": ["superadmin"]}))
        assert others.status_code == 401
        own = await house.http.get("/api/billing/user", headers=headers())
        assert own.json()["totalBilledCost"] == 0.00002
