"""The test bed itself: what the other tests here stand on."""

from tests.aws.emulator import Emulator


def test_it_answers_as_aws_does(emulator: Emulator) -> None:
    for service, call in (
        ("dynamodb", "list_tables"),
        ("dynamodbstreams", "list_streams"),
        ("s3", "list_buckets"),
        ("sns", "list_topics"),
        ("sqs", "list_queues"),
        ("stepfunctions", "list_state_machines"),
    ):
        client = emulator.client(service)
        assert getattr(client, call)()["ResponseMetadata"]["HTTPStatusCode"] == 200
        client.close()
