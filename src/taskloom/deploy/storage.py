"""What is kept: the table, and the bucket of large values."""

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_s3 as s3
from constructs import Construct

from taskloom.aws import table


class Storage(Construct):
    """The table of `taskloom.aws.table`, and a bucket."""

    def __init__(
        self, scope: Construct, id_: str, *, removal_policy: cdk.RemovalPolicy, payload_days: int | None
    ) -> None:
        super().__init__(scope, id_)
        definition = table.DEFINITION
        raw = dynamodb.CfnTable(
            self,
            "Table",
            key_schema=[_key(part) for part in definition["KeySchema"]],
            attribute_definitions=[
                dynamodb.CfnTable.AttributeDefinitionProperty(
                    attribute_name=item["AttributeName"], attribute_type=item["AttributeType"]
                )
                for item in definition["AttributeDefinitions"]
            ],
            global_secondary_indexes=[
                dynamodb.CfnTable.GlobalSecondaryIndexProperty(
                    index_name=item["IndexName"],
                    key_schema=[_key(part) for part in item["KeySchema"]],
                    projection=dynamodb.CfnTable.ProjectionProperty(
                        projection_type=item["Projection"]["ProjectionType"]
                    ),
                )
                for item in definition["GlobalSecondaryIndexes"]
            ],
            billing_mode=definition["BillingMode"],
            stream_specification=dynamodb.CfnTable.StreamSpecificationProperty(
                stream_view_type=definition["StreamSpecification"]["StreamViewType"]
            ),
            sse_specification=dynamodb.CfnTable.SSESpecificationProperty(
                sse_enabled=definition["SSESpecification"]["Enabled"]
            ),
            time_to_live_specification=dynamodb.CfnTable.TimeToLiveSpecificationProperty(
                attribute_name=table.TIME_TO_LIVE["AttributeName"], enabled=table.TIME_TO_LIVE["Enabled"]
            ),
            point_in_time_recovery_specification=dynamodb.CfnTable.PointInTimeRecoverySpecificationProperty(
                point_in_time_recovery_enabled=table.POINT_IN_TIME_RECOVERY["PointInTimeRecoveryEnabled"]
            ),
        )
        raw.apply_removal_policy(removal_policy)
        self.table = dynamodb.Table.from_table_attributes(
            self,
            "Tasks",
            table_arn=raw.attr_arn,
            table_stream_arn=raw.attr_stream_arn,
            grant_index_permissions=True,
        )
        """The table; its ARN is known at deployment only."""
        self.bucket = s3.Bucket(
            self,
            "Payloads",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            removal_policy=removal_policy,
            lifecycle_rules=[
                s3.LifecycleRule(abort_incomplete_multipart_upload_after=cdk.Duration.days(1)),
                *([] if payload_days is None else [s3.LifecycleRule(expiration=cdk.Duration.days(payload_days))]),
            ],
        )
        """Inputs and results that are too large for an item."""


def _key(part: dict[str, Any]) -> dynamodb.CfnTable.KeySchemaProperty:
    return dynamodb.CfnTable.KeySchemaProperty(attribute_name=part["AttributeName"], key_type=part["KeyType"])
