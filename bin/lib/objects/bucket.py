"""A bucket on moto's server, and the hands of somebody who has the keys: make, names, remove, damage.

bucket.py URL make               a user, keys, a bucket; prints both keys; the server checks every request after this
bucket.py URL names              names of all objects below shop/, each with its size
bucket.py URL remove NAME        removes one
bucket.py URL damage NAME        changes one byte in the middle of one
Keys are in ACCESS and SECRET, but for `make`.
"""
import json
import os
import sys

import boto3

url, what, *rest = sys.argv[1:]


def client(kind, access, secret):
    return boto3.client(
        kind, endpoint_url=url, region_name="us-east-1", aws_access_key_id=access, aws_secret_access_key=secret
    )


if what == "make":
    iam = client("iam", "nobody", "nothing")
    iam.create_user(UserName="backup")
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_user_policy(UserName="backup", PolicyName="all", PolicyDocument=json.dumps(everything))
    keys = iam.create_access_key(UserName="backup")["AccessKey"]
    client("s3", "nobody", "nothing").create_bucket(Bucket="off-site")
    print(keys["AccessKeyId"], keys["SecretAccessKey"])
    sys.exit()

s3 = client("s3", os.environ["ACCESS"], os.environ["SECRET"])
if what == "names":
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="off-site", Prefix="shop/"):
        for one in page.get("Contents", []):
            print(one["Key"].removeprefix("shop/"), one["Size"])
elif what == "remove":
    s3.delete_object(Bucket="off-site", Key=f"shop/{rest[0]}")
elif what == "damage":
    content = bytearray(s3.get_object(Bucket="off-site", Key=f"shop/{rest[0]}")["Body"].read())
    content[len(content) // 2] ^= 1
    s3.put_object(Bucket="off-site", Key=f"shop/{rest[0]}", Body=bytes(content))
