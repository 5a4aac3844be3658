"""The HTTP API in front of REST and dashboard."""

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk import aws_lambda as lambda_
from constructs import Construct


@dataclass(frozen=True, kw_only=True)
class Jwt:
    """Whose tokens the HTTP API accepts."""

    issuer: str
    """As https://cognito-idp.<region>.amazonaws.com/<pool>."""
    audience: Sequence[str]


class Api(Construct):
    """Everything goes to one function, once the authorizer has checked the token."""

    def __init__(self, scope: Construct, id_: str, function: lambda_.Function, jwt: Jwt) -> None:
        super().__init__(scope, id_)
        self.api = apigateway.HttpApi(
            self,
            "HttpApi",
            default_authorizer=authorizers.HttpJwtAuthorizer("Jwt", jwt.issuer, jwt_audience=list(jwt.audience)),
            default_integration=integrations.HttpLambdaIntegration("Http", function),
        )
        self.url = self.api.api_endpoint
        function.add_environment("TASKLOOM_AUTHENTICATION", "gateway")
