"""The page that a stage deploys for a team: a Lambda function with a sign-in by OpenID Connect."""
