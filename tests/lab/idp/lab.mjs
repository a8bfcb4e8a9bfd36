// What no real identity provider has: counting, faults, tokens without a sign-in. Loopback only, behind a key.

import { importJWK, jwtVerify } from 'jose';

export const RESOURCE = 'urn:gatepost:lab:mail';
const JWT_GRANT = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const MAX_BODY_BYTES = 65536; // a form or a small JSON object; anything larger is a mistake of the test

export async function readBody(req) {
  const chunks = [];
  let size = 0;
  for await (const chunk of req) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new Error('request body too large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function answer(res, status, body, headers = {}) {
  res.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store', ...headers });
  res.end(JSON.stringify(body));
}

// The token endpoint's front door: counts every request, then lets it in or spoils it.
export class TokenGate {
  constructor(store) {
    this.store = store;
    this.reset();
  }

  fault = null;

  reset() {
    this.counts = { by_grant: {}, refresh_by_user: {} };
  }

  #count(params) {
    const grant = params.get('grant_type') ?? '';
    this.counts.by_grant[grant] = (this.counts.by_grant[grant] ?? 0) + 1;
    if (grant !== 'refresh_token') return;
    // An opaque token is its own key. A token that is unknown by now is counted for nobody.
    const user = this.store.get(`RefreshToken:${params.get('refresh_token')}`)?.accountId ?? '';
    this.counts.refresh_by_user[user] = (this.counts.refresh_by_user[user] ?? 0) + 1;
  }

  #take() {
    const fault = this.fault;
    if (fault?.times && (fault.times -= 1) === 0) this.fault = null;
    return fault;
  }

  async serve(req, res, next) {
    const body = await readBody(req);
    this.#count(new URLSearchParams(body));
    req.body = body; // oidc-provider takes a body that was already read from here
    const fault = this.#take();
    const end = res.end.bind(res);
    switch (fault?.kind) {
      case undefined:
        return next();
      case 'late': // the work is done now, only its answer comes late
        res.end = (...args) => setTimeout(() => end(...args), fault.delay_ms);
        return next();
      case 'lose_answer': // the work is done (a refresh token is rotated) and the client never hears of it
        res.end = () => req.socket.destroy();
        return next();
      case 'hang':
        return undefined;
      case 'drop':
        return req.socket.destroy();
      case '500':
        return answer(res, 500, { error: 'server_error', error_description: 'lab fault' });
      case '429':
        return answer(res, 429, { error: 'temporarily_unavailable', error_description: 'lab fault' }, { 'retry-after': '1' });
      case 'invalid_client':
        return answer(res, 401, { error: 'invalid_client', error_description: 'lab fault' });
      default:
        throw new Error(`unknown fault ${fault.kind}`);
    }
  }
}

export class LabDesk {
  constructor({ provider, store, gate, settings, config, redirectUris }) {
    Object.assign(this, { provider, store, gate, settings, config, redirectUris });
  }

  async #grant(user) {
    if (!this.config.users[user]) throw new Error(`no user ${user}`);
    const grant = new this.provider.Grant({ accountId: user, clientId: this.config.client_id });
    grant.addOIDCScope('openid email offline_access');
    grant.addResourceScope(RESOURCE, 'mail');
    const client = await this.provider.Client.find(this.config.client_id);
    return { client, accountId: user, grantId: await grant.save() };
  }

  async #accessToken(user) {
    const token = new this.provider.AccessToken({ ...await this.#grant(user), scope: 'mail', gty: 'authorization_code' });
    token.resourceServer = new this.provider.ResourceServer(RESOURCE, {
      scope: 'mail', audience: RESOURCE, accessTokenFormat: 'opaque',
    });
    return token.save();
  }

  serviceAccounts = new Map(); // e-mail -> { keyId, key, mailboxes }

  isForServiceAccounts(req) {
    return new URLSearchParams(req.body).get('grant_type') === JWT_GRANT;
  }

  // Google's domain-wide delegation: a signed JWT in place of a client and of a person (RFC 7523 2.1).
  async serveAccount(req, res) {
    const refuse = (error, text) => answer(res, 400, { error, error_description: text });
    try {
      const assertion = new URLSearchParams(req.body).get('assertion') ?? '';
      const { payload } = await jwtVerify(assertion, async (header) => {
        const claims = JSON.parse(Buffer.from(assertion.split('.')[1], 'base64url').toString());
        const account = this.serviceAccounts.get(claims.iss);
        if (!account || account.keyId !== header.kid) throw new Error('unknown account or key');
        return account.key;
      }, { audience: `${this.config.issuer}/token`, requiredClaims: ['exp', 'iat', 'scope', 'sub'], maxTokenAge: '1h' });
      if (!this.serviceAccounts.get(payload.iss).mailboxes.includes(payload.sub)) {
        return refuse('unauthorized_client', 'not authorized for this mailbox or scope');
      }
      if (!this.config.users[payload.sub]) return refuse('invalid_grant', 'Invalid email or User ID');
      const token = await this.#accessToken(payload.sub);
      return answer(res, 200, { access_token: token, token_type: 'Bearer', expires_in: this.settings.ttl_s });
    } catch (error) {
      return refuse('invalid_grant', `Invalid JWT: ${error.message}`);
    }
  }

  async #act(path, ask) {
    switch (path) {
      case '/lab/refresh-token': {
        const token = new this.provider.RefreshToken({
          ...await this.#grant(ask.user),
          scope: 'openid email offline_access mail',
          resource: RESOURCE,
          gty: 'authorization_code',
          amr: ['pwd', 'otp', 'mfa'],
          authTime: Math.floor(Date.now() / 1000),
        });
        return { refresh_token: await token.save() };
      }
      case '/lab/access-token': {
        return { access_token: await this.#accessToken(ask.user) };
      }
      case '/lab/settings':
        Object.assign(this.settings, ask);
        return this.settings;
      case '/lab/fault':
        this.gate.fault = ask.kind ? ask : null;
        return {};
      case '/lab/token-requests':
        if (ask.reset) this.gate.reset();
        return this.gate.counts;
      case '/lab/revoke':
        this.store.removeAccount(ask.user);
        return {};
      case '/lab/signed-client': // read through the adapter, as a client of dynamic registration would be
        this.store.put(`Client:${ask.client_id}`, {
          client_id: ask.client_id,
          token_endpoint_auth_method: 'private_key_jwt',
          jwks: { keys: [ask.jwk] },
          grant_types: ['authorization_code', 'client_credentials', ...(ask.refresh_tokens ? ['refresh_token'] : [])],
          response_types: ['code'],
          redirect_uris: this.config.redirect_uris,
          id_token_signed_response_alg: 'ES256',
        });
        return {};
      case '/lab/service-account':
        this.serviceAccounts.set(ask.email, {
          keyId: ask.key_id, key: await importJWK(ask.jwk, 'RS256'), mailboxes: ask.mailboxes,
        });
        return {};
      case '/lab/redirect-uri':
        this.redirectUris.add(ask.uri);
        return {};
      default:
        return undefined;
    }
  }

  async serve(req, res, path) {
    const body = await readBody(req);
    if (path === '/lab/ready') return answer(res, 200, {});
    if (req.method !== 'POST' || req.headers['x-lab-key'] !== this.config.lab_key) return answer(res, 403, { error: 'forbidden' });
    try {
      const result = await this.#act(path, body ? JSON.parse(body) : {});
      return result ? answer(res, 200, result) : answer(res, 404, { error: `no ${path}` });
    } catch (error) {
      return answer(res, 400, { error: String(error.message ?? error) });
    }
  }
}
