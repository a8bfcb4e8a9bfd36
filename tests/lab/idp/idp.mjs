// The lab's identity provider: oidc-provider with two clients, password and TOTP sign-in, rotation with reuse detection.
//
//   node idp.mjs CONFIG.json      (written by tests/lab/idp.py: port, users, clients, secrets)
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';

import { Provider } from 'oidc-provider';
import { verify } from 'otplib';

import { LabDesk, RESOURCE, TokenGate, readBody } from './lab.mjs';
import * as pages from './pages.mjs';
import { Store } from './store.mjs';

const ID_TOKEN_ALGORITHM = 'ES256'; // an RSA key would take longer to make than all the rest of the start

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const settings = {
  ttl_s: config.ttl_s,
  access_token_length: config.access_token_length,
  app_mailbox: config.app_mailbox,
  delegates: config.delegates,
  amr: config.amr,
  id_claims: config.id_claims,
  login_age_s: config.login_age_s,
};
const store = new Store();
store.load(config.state_file);
if (!store.get('lab:signing-key')) {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  store.put('lab:signing-key', { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: ID_TOKEN_ALGORITHM });
}

const DAY_S = 86400;
const CODE_TOLERANCE_S = 30; // one step either way: what authenticator apps are commonly granted

const provider = new Provider(config.issuer, {
  adapter: store.adapter,
  jwks: { keys: [store.get('lab:signing-key')] },
  cookies: { keys: [config.cookie_key] },
  clients: [
    {
      client_id: config.client_id,
      client_secret: config.client_secret,
      client_name: 'Gatepost',
      grant_types: [
        'authorization_code', 'refresh_token', 'client_credentials', 'urn:ietf:params:oauth:grant-type:device_code',
      ],
      response_types: ['code'],
      redirect_uris: config.redirect_uris,
      id_token_signed_response_alg: ID_TOKEN_ALGORITHM,
    },
    {
      client_id: config.introspection_client_id,
      client_secret: config.introspection_client_secret,
      grant_types: [],
      response_types: [],
      redirect_uris: [],
      id_token_signed_response_alg: ID_TOKEN_ALGORITHM,
    },
  ],
  // "mail" belongs to the resource; in this list too, every login would loop in consent.
  scopes: ['openid', 'email', 'offline_access'],
  // Which of these are there is settings.id_claims' and settings.amr's to say.
  claims: {
    openid: ['sub', 'acr', 'amr', 'auth_time', 'tid', 'oid', 'idp', 'groups', 'preferred_username'],
    email: ['email', 'email_verified'],
  },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  rotateRefreshToken: () => true,
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  findAccount: async (ctx, id) => (config.users[id]
    ? { accountId: id, claims: async () => ({ sub: id, email: id, email_verified: true, ...settings.id_claims[id] }) } : undefined),
  // Dovecot compares this with the login name.
  extraTokenClaims: async (ctx, token) => ({
    email: token.accountId ? settings.delegates[token.accountId] ?? token.accountId : settings.app_mailbox,
  }),
  formats: {
    bitsOfOpaqueRandomness: (ctx, token) => (token.kind === 'AccessToken' ? settings.access_token_length * 6 : 258),
  },
  ttl: {
    AccessToken: () => settings.ttl_s,
    ClientCredentials: () => settings.ttl_s,
    AuthorizationCode: 60,
    DeviceCode: 600,
    IdToken: 3600,
    Interaction: 3600,
    RefreshToken: 30 * DAY_S,
    Session: DAY_S,
    Grant: 30 * DAY_S,
  },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  // Signing in is consent enough, unless the client asks for prompt=consent.
  loadExistingGrant: async (ctx) => {
    const { client, session, result } = ctx.oidc;
    const known = result?.consent?.grantId || session.grantIdFor(client.clientId);
    const grant = (known && await provider.Grant.find(known))
      || new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope('openid email offline_access');
    grant.addResourceScope(RESOURCE, 'mail');
    await grant.save();
    return grant;
  },
  renderError: async (ctx, out) => {
    ctx.type = 'html';
    ctx.body = pages.errorPage(out);
  },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    deviceFlow: {
      enabled: true,
      userCodeInputSource: async (ctx, form, out, error) => {
        ctx.body = pages.deviceInputPage(form, error && 'That code is not right, or the sign-in was broken off. Try again.');
      },
      userCodeConfirmSource: async (ctx, form, client, device, code) => {
        ctx.body = pages.deviceConfirmPage(form, client.clientName ?? client.clientId, code);
      },
      successSource: async (ctx) => {
        ctx.body = pages.deviceDonePage();
      },
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: async () => RESOURCE,
      useGrantedResource: async () => true,
      getResourceServerInfo: async () => ({ scope: 'mail', audience: RESOURCE, accessTokenFormat: 'opaque' }),
    },
  },
});

// Redirect addresses are compared exactly, as real providers do; a test registers the one of its own port.
// One on loopback that was registered without a port is good for every port (RFC 8252 7.3), as at Entra and Google.
const redirectUris = new Set(config.redirect_uris);
const anyPort = (uri) => uri.replace(/^(http:\/\/(?:127\.0\.0\.1|localhost|\[::1\])):[0-9]+(?=\/)/, '$1');
provider.Client.prototype.redirectUriAllowed = (uri) => redirectUris.has(uri) || redirectUris.has(anyPort(uri));

// RFC 8628 leaves 5 s to whoever is told nothing; tests would wait for them.
provider.use(async (ctx, next) => {
  await next();
  if (ctx.oidc?.route === 'device_authorization' && ctx.body?.device_code) ctx.body.interval = 1;
});

provider.on('server_error', (ctx, error) => console.error('server_error', ctx.path, error));
for (const event of ['grant.error', 'authorization.error', 'introspection.error']) {
  provider.on(event, (ctx, error) => console.log(event, error.error, error.error_detail ?? error.error_description));
}

const gate = new TokenGate(store);
const desk = new LabDesk({ provider, store, gate, settings, config, redirectUris });
const passwordGiven = new Map(); // interaction uid -> user, between the first and the second factor

function show(res, html, status = 200) {
  res.writeHead(status, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
  res.end(html);
}

async function interact(req, res, path) {
  const [, , , step] = path.split('/');
  const { uid, prompt, params } = await provider.interactionDetails(req, res);
  if (req.method !== 'POST') {
    if (prompt.name === 'consent') return show(res, pages.consentPage(uid, 'Gatepost'));
    return show(res, passwordGiven.has(uid) ? pages.codePage(uid) : pages.passwordPage(uid, params.login_hint));
  }
  const form = new URLSearchParams(await readBody(req));
  const finish = (result, mergeWithLastSubmission) => provider.interactionFinished(req, res, result, { mergeWithLastSubmission });
  switch (step) {
    case 'abort':
      passwordGiven.delete(uid);
      return finish({ error: 'access_denied', error_description: 'the user cancelled' }, false);
    case 'consent':
      return prompt.name === 'consent' ? finish({ consent: {} }, true) : show(res, pages.errorPage({ error: 'not asked' }), 400);
    case 'password': {
      const user = (form.get('login') ?? '').trim().toLowerCase();
      if (!config.users[user] || config.users[user].password !== form.get('password')) {
        return show(res, pages.passwordPage(uid, user, 'Wrong e-mail address or password.'), 401);
      }
      passwordGiven.set(uid, user);
      res.writeHead(303, { location: `/interaction/${uid}` });
      return res.end();
    }
    case 'totp': {
      const user = passwordGiven.get(uid);
      if (!user) return show(res, pages.passwordPage(uid, '', 'Sign in with your password first.'), 401);
      const token = (form.get('code') ?? '').trim();
      const secret = config.users[user].totp_secret;
      const isRight = /^[0-9]{6}$/.test(token) && (await verify({ secret, token, epochTolerance: CODE_TOLERANCE_S })).valid;
      if (!isRight) return show(res, pages.codePage(uid, 'Wrong code.'), 401);
      passwordGiven.delete(uid);
      return finish({
        login: {
          accountId: user,
          acr: settings.amr.includes('mfa') ? 'mfa' : undefined,
          amr: settings.amr,
          ts: Math.floor(Date.now() / 1000) - settings.login_age_s,
        },
      }, false);
    }
    default:
      return show(res, pages.errorPage({ error: 'no such page' }), 404);
  }
}

const callback = provider.callback();

async function serve(req, res) {
  const path = req.url.split('?', 1)[0];
  if (path.startsWith('/lab/')) return desk.serve(req, res, path);
  if (path === '/token') {
    return gate.serve(req, res, () => (desk.isForServiceAccounts(req) ? desk.serveAccount(req, res) : callback(req, res)));
  }
  if (path.startsWith('/interaction/')) return interact(req, res, path);
  return callback(req, res);
}

const server = http.createServer((req, res) => {
  serve(req, res).catch((error) => {
    const isStale = error.name === 'SessionNotFound';
    if (!isStale) console.error(req.method, req.url.split('?', 1)[0], error);
    if (!res.headersSent) show(res, pages.errorPage({ error: isStale ? 'this sign-in is over, start again' : 'server error' }), isStale ? 400 : 500);
  });
});

process.on('SIGTERM', () => {
  server.close();
  server.closeAllConnections();
  store.save(config.state_file);
  process.exit(0);
});
process.on('SIGINT', () => {}); // Ctrl-C in the terminal is for the lab, which then stops its servers in order

server.listen(config.port, '127.0.0.1', () => console.log('listening'));
