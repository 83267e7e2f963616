"""The balancer's operator API says of itself what OpenAPI allows, and answers as it says."""

import unittest

import jsonschema
import openapi_spec_validator

from balancer import Balancer


class Document(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.balancer = Balancer()
        cls.addClassCleanup(cls.balancer.stop)
        status, cls.document = cls.balancer.ask("/openapi.json")
        assert status == 200, cls.document

    def fits(self, body: object, schema: dict) -> None:
        """References lead into the document, so the schema is read as a part of it."""
        jsonschema.Draft202012Validator({**schema, "components": self.document["components"]}).validate(body)

    def answer_of(self, path: str, method: str, status: int) -> dict:
        responses = self.document["paths"][path][method]["responses"]
        response = responses.get(str(status), responses["default"])
        if "$ref" in response:
            response = self.document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        return response["content"]["application/json"]["schema"]

    def test_it_is_openapi(self) -> None:
        openapi_spec_validator.validate(self.document)

    def test_whatever_is_shown_is_as_described(self) -> None:
        self.assertEqual(self.balancer.ask("/bans", "POST", {"address": "192.0.2.7", "seconds": 60})[0], 201)
        change = {"state": "drain", "reason": "a test", "max_connections": 3, "drain": {"rate": 1}}
        self.assertEqual(self.balancer.ask("/pools/chat/servers/a", "PATCH", change)[0], 200)
        fault = {"pool": "chat", "effect": "latency", "delay": "1ms", "lease": "1s"}
        self.assertEqual(self.balancer.ask("/faults", "POST", fault)[0], 201)
        shown = [path for path, item in self.document["paths"].items() if "get" in item]
        self.assertGreater(len(shown), 5, shown)
        for path in shown:
            with self.subTest(path):
                status, body = self.balancer.ask(path.replace("{pool}", "chat"))
                self.assertEqual(status, 200, body)
                self.fits(body, self.answer_of(path, "get", 200))

    def test_a_no_is_as_described(self) -> None:
        for path, method, body, token, expected in [
            ("/pools/{pool}", "get", None, "the-token", 404),
            ("/pools", "get", None, None, 401),
            ("/bans", "post", {"address": "nobody", "seconds": 60}, "the-token", 422),
            ("/bans", "post", [], "the-token", 400),
        ]:
            with self.subTest(path=path, expected=expected):
                status, answer = self.balancer.ask(path, method.upper(), body, token)
                self.assertEqual(status, expected, answer)
                self.fits(answer, self.answer_of(path, method, status))
