"""The ports over AWS: DynamoDB, SQS, SNS, Step Functions, S3. Needs the extra `aws`."""
