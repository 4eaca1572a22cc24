#!/bin/sh
# sign-in.sh [API [AGENTS]]: the next generation of a program that has no agent,
# with openssl, curl and jq. In this folder lie the sets 1, 2, 3 ... (tls.key on
# P-256, tls.crt, ca.crt, token), and current, a link to the one in use.
set -eu
umask 077
api=${1:-http://127.0.0.1:8080} agents=${2:-https://127.0.0.1:8443}
trap 'rm -f headers proof' EXIT

b64() { openssl base64 -A | tr '+/' '-_' | tr -d =; }
raw() { # bytes of hexadecimal text
	printf "$(awk '{ s = tolower($0); for (i = 1; i < length(s); i += 2)
		printf "\\%03o", 16 * index(h, substr(s, i, 1)) + index(h, substr(s, i + 1, 1)) - 17 }' h=0123456789abcdef)"
}
point() { openssl pkey -in current/tls.key -pubout -outform DER | tail -c 64; }

# The new key is on disk before anything is asked for. If the reply is lost, the
# same key gets the same certificate again.
! cmp -s next.key current/tls.key || rm next.key
[ -e next.key ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out next.key

# Proof of possession (RFC 9449), by the key of the token. JWS wants the two
# numbers of the signature side by side, 32 bytes each (RFC 7518, 3.4).
token=$(cat current/token)
ath=$(printf %s "$token" | openssl dgst -sha256 -binary | b64)
header='{"typ":"dpop+jwt","alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"'$(point | head -c 32 | b64)'","y":"'$(point | tail -c 32 | b64)'"}}'
claims='{"jti":"'$(openssl rand -hex 16)'","htm":"POST","htu":"'$api/v1/login'","iat":'$(date +%s)',"ath":"'$ath'"}'
printf %s.%s "$(printf %s "$header" | b64)" "$(printf %s "$claims" | b64)" > proof
signature=$(openssl dgst -sha256 -sign current/tls.key -binary proof | openssl asn1parse -inform DER |
	awk -F: '/INTEGER/ { printf "%64s", $NF }' | tr ' ' 0 | raw | b64)
printf 'Authorization: DPoP %s\nDPoP: %s.%s\nContent-Type: application/json\n' "$token" "$(cat proof)" "$signature" > headers

openssl req -new -key next.key -subj /CN=client | jq -Rs '{csr: .}' |
	curl --fail-with-body -sS -H @headers --data-binary @- "$api/v1/login" > reply.json || { cat reply.json >&2; exit 1; }

# The whole set at once.
set=$(jq .generation reply.json)
mkdir -p "$set"
jq -r .certificate reply.json > "$set/tls.crt"
jq -r .ca reply.json > "$set/ca.crt"
jq -j .token reply.json > "$set/token"
cp next.key "$set/tls.key"
ln -sfn "$set" current.new && mv -T current.new current
rm next.key reply.json

# Until this was seen, the set before stays good.
printf 'Authorization: Bearer %s\n' "$(cat current/token)" > headers
curl --fail-with-body -sS --cacert current/ca.crt --cert current/tls.crt --key current/tls.key \
	-H @headers -X POST "$agents/v1/agent/prove"
